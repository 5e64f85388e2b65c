"""Reports whether a phase or an experiment fits the chips, how fast it can be and what it costs, without the chips.

    python -m msm_jax.plan --config=configs/pretrain.py --topology=v5e:2x2
    python -m msm_jax.plan --config=configs/experiments/paper_philosophy_qwen3_32b.py:devices=64 --topology=v5e:8x8

Without --topology it plans for the devices of this machine. Exit status 1 means that something does not fit.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from absl import flags
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from msm_jax import cli
from msm_jax.errors import InputError, WorkError
from msm_jax.experiments.planned import phases_of
from msm_jax.foundation import hashing, settings, storage
from msm_jax.planning import plan as plan_lib
from msm_jax.planning import report, topology
from msm_jax.planning.compiler import Compiler

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()
_TOPOLOGY = flags.DEFINE_string("topology", "", "A TPU slice such as v5e:8x8 or v5p:4x4x4; empty: this machine.")
_MODEL = flags.DEFINE_string("model", "", "The preset of the checkpoint to start from, if it does not exist yet.")
_PRICE = flags.DEFINE_float("price_per_chip_hour", None, "The price for the cost, in any currency.")
_DECODE_ROWS = flags.DEFINE_integer("decode_rows", 32, "The rows of the decode step; 0 leaves it out.")
_DECODE_SLOTS = flags.DEFINE_integer("decode_slots", 0, "The slots of its caches; 0: 8192, or the model's positions.")


def main() -> None:
    """Plans the config, prints the plan and writes WORKDIR/plan.json.

    Raises:
        InputError: the config, the topology or the mesh is wrong, or libtpu is missing.
        WorkError: a program does not fit.
    """
    config = settings.plain(cli.require(_CONFIG))
    if _PRICE.value is not None and _PRICE.value < 0:
        raise InputError(f"--price_per_chip_hour={_PRICE.value}; it must not be negative")
    for flag in (_DECODE_ROWS, _DECODE_SLOTS):
        if flag.value < 0:
            raise InputError(f"--{flag.name}={flag.value}; it must not be negative")
    found = topology.parse(_TOPOLOGY.value) if _TOPOLOGY.value else None
    name, planned = phases_of(config, _MODEL.value)
    if found is None:
        cli.prepare_backend(max(phase.config.mesh.size for phase in planned), 0)
    devices = found.chips if found else jax.device_count()
    console = Console(highlight=False, soft_wrap=True)
    slots = _DECODE_SLOTS.value or min(8192, *(phase.program.model.max_position_embeddings for phase in planned))
    decode = (_DECODE_ROWS.value, slots) if _DECODE_ROWS.value else None
    jobs = plan_lib.jobs(planned, found, devices, decode)
    with compiler_for(tpu=found is not None) as compiler, _progress(console) as say:
        plan = plan_lib.make(name, planned, found, jobs, compiler, _PRICE.value, say)
    for part in report.render(plan):
        console.print(part)
    where = found.name.replace(":", "-") if found else "here"
    path = f"{_WORKDIR.value or f'runs/plans/{name}/{where}'}/plan.json"
    storage.write_json(path, plan_lib.to_json(plan))
    console.print(f"wrote {path}")
    if not plan.fits:
        short = [plan_lib.title(one.job) for one in plan.measured if not one.memory.fits]
        raise WorkError(f"does not fit: {'; '.join(short)}; see above for changes that do")


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Shows which program is compiled, and for how long: a live line on a terminal, otherwise a line for each."""
    began = time.monotonic()
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")

        def say(what: str) -> None:
            progress.reset(task, description=f"compiles the {what}")
            if not console.is_terminal:
                console.print(f"{time.monotonic() - began:.0f} s: compiles the {what}")

        yield say


def compiler_for(tpu: bool) -> Compiler:
    """Returns a compiler that caches its figures in the user's cache directory.

    Raises:
        InputError: see `Compiler`.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    sources = {
        **hashing.sources_of("msm_jax.planning.worker"),
        **hashing.sources_of("msm_jax.planning.compiler"),
    }
    return Compiler(home / "msm_jax" / "plans", tpu, sources)


if __name__ == "__main__":
    cli.run(main)
