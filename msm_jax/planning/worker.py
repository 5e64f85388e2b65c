"""Compiles programs in a process of its own, whose log the other side reads: a job per line in, a result per line out.

python -m msm_jax.planning.worker

What the compiler says of memory stands in its log alone, and libtpu takes its settings from the environment it starts
in; `planning.compiler` starts this and reads both.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from msm_jax.errors import InputError
from msm_jax.parallel import backend
from msm_jax.parallel.mesh import make_mesh
from msm_jax.planning import flops, hlo, programs, topology
from msm_jax.planning.programs import Job
from msm_jax.training.program import TrainProgram


def main() -> None:
    """Answers jobs until standard input ends."""
    # Results must be the only thing on standard output; whatever a library prints goes to the log.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        job = programs.from_json(json.loads(line))
        try:
            result = run(job)
        except InputError as error:
            result = {"refused": str(error)}
        print(json.dumps(result), file=answers, flush=True)


def run(job: Job) -> dict[str, Any]:
    """Traces and compiles one program.

    Returns:
        "refused": why it cannot be built; or "exhausted": what the compiler said of memory that does not suffice; or
        all of: "flops" {"products", "kernels"} of all devices, "held" and "kept" as `programs.held` and
        `programs.kept`, "analysis" the compiler's memory analysis in bytes per device, "capacity" bytes that a device
        at hand has (0 where that is not known), "collectives" with the mesh axes of each, "network" as `_network` by
        mesh axes, "device_kind"; and always "trace_seconds", "compile_seconds" and "cpu_seconds", of all threads.
    """
    began, spent = time.monotonic(), time.process_time()
    if not job.topology:
        backend.prepare(job.mesh.size, 0)
    mesh = make_mesh(job.mesh, _devices(job.topology))
    traced = programs.trace(job.program, mesh)
    found: dict[str, Any] = {
        "device_kind": mesh.devices.flat[0].device_kind,
        "capacity": 0.0 if job.topology else _capacity(mesh.devices.flat[0]),
        "flops": dataclasses.asdict(flops.count(traced.jaxpr)),
        "held": programs.held(job.program, mesh),
        "kept": programs.kept(job.program, mesh) if isinstance(job.program, TrainProgram) else 0.0,
    }
    lowered = traced.lower()
    found["trace_seconds"] = time.monotonic() - began
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "CompileTime" not in str(error):
            raise
        found["exhausted"] = str(error)
    found["compile_seconds"] = time.monotonic() - began
    found["cpu_seconds"] = time.process_time() - spent
    if "exhausted" in found:
        return found
    analysis = compiled.memory_analysis()
    found["analysis"] = {
        name: getattr(analysis, name)
        for name in ("argument_size_in_bytes", "output_size_in_bytes", "alias_size_in_bytes", "temp_size_in_bytes",
                     "generated_code_size_in_bytes", "host_temp_size_in_bytes", "host_argument_size_in_bytes")
    }
    sent = hlo.collectives(compiled.as_text())
    found["collectives"] = [
        {"axes": "×".join(hlo.axes_of(one.groups, mesh.shape)), "size": one.size, "received": one.received,
         **{name: getattr(one, name) for name in ("kind", "shape", "bytes", "trips", "source")}}
        for one in sent
    ]
    spans = {hlo.axes_of(one.groups, mesh.shape) for one in sent}
    found["network"] = {"×".join(axes): _network(mesh, axes) for axes in sorted(spans)}
    return found


def _devices(name: str) -> Sequence[jax.Device]:
    if not name:
        return jax.devices()
    slice_ = topology.parse(name)
    return topologies.get_topology_desc(slice_.name, platform="tpu", **slice_.arguments).devices


def _capacity(device: jax.Device) -> float:
    """Bytes of memory that programs may take; of a CPU, its share of the machine's."""
    if device.platform == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / jax.local_device_count()
    return float((device.memory_stats() or {}).get("bytes_limit", 0))


def _network(mesh: Mesh, axes: Sequence[str]) -> list[int]:
    """How many places a group along these mesh axes takes along each axis of the chips' network, where it has axes."""
    index = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    group = mesh.devices[index].flatten().tolist()
    places = [getattr(device, "coords", None) for device in group]
    if not all(places):
        return []
    return [len(set(values)) for values in zip(*places, strict=True)]


if __name__ == "__main__":
    main()
