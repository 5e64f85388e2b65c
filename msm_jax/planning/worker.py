"""The child process that compiles programs: it reads one job a line and writes one result a line.

python -m msm_jax.planning.worker

It is a process of its own since the compiler reports its use of memory in the log alone, and libtpu reads its settings
from the environment once; `planning.compiler` starts it and reads both results and log.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from msm_jax.errors import InputError
from msm_jax.foundation import child_process
from msm_jax.parallel import backend
from msm_jax.parallel.mesh import make_mesh
from msm_jax.planning import flops, hlo, programs, topology
from msm_jax.planning.programs import Job
from msm_jax.training.program import TrainProgram


def main() -> None:
    """Answers jobs until standard input ends."""
    channel = child_process.reserve_stdout()
    for request in child_process.requests():
        try:
            result = run(programs.from_json(request))
        except InputError as error:
            result = {"refused": str(error)}
        child_process.reply(channel, result)


def run(job: Job) -> dict[str, Any]:
    """Traces and compiles one program.

    Returns:
        A dict with "device_kind", "capacity" (bytes of a device of this machine, 0 where not known), "flops"
        {"products", "kernels"} of all devices, "held" and "kept" as from `programs`, and "trace_seconds",
        "compile_seconds" and "cpu_seconds" (of all threads). If memory does not suffice, also "exhausted", the
        compiler's message; otherwise "analysis", its memory analysis in bytes per device, "collectives" with the mesh
        axes of each, and "network", which is `_network` by mesh axes.

    Raises:
        InputError: the program cannot be built on that mesh.
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
    """Returns the bytes of memory that programs may use; for a CPU device its share of the machine's memory."""
    if device.platform == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / jax.local_device_count()
    return float((device.memory_stats() or {}).get("bytes_limit", 0))


def _network(mesh: Mesh, axes: Sequence[str]) -> list[int]:
    """Returns how many places a group along these mesh axes takes on each axis of the network, [] without one."""
    index = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    group = mesh.devices[index].flatten().tolist()
    places = [getattr(device, "coords", None) for device in group]
    if not all(places):
        return []
    return [len(set(values)) for values in zip(*places, strict=True)]


if __name__ == "__main__":
    main()
