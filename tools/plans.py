"""Plans many models on many TPU slices, one after the other, and writes docs/plans.md.

    python tools/plans.py

It needs libtpu; see `msm_jax.plan`. Plans that were made before with the same code and compiler come from a cache, so
that another run compiles only missing ones. With --cached it compiles nothing and leaves gaps for missing plans. The
exit status is 0 if each of `PROMISED` has the promised headroom.
"""

import argparse
import math
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs import plan as config_file
from msm_jax import plan as command
from msm_jax.experiments.planned import phases_of
from msm_jax.foundation import settings
from msm_jax.planning import plan as plan_lib
from msm_jax.planning import report, topology
from msm_jax.planning.chips import GIB
from msm_jax.planning.compiler import Compiler
from msm_jax.planning.plan import Plan

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Row:
    """A plan to make.

    Attributes:
        what: the argument of configs/plan.py without `chips`.
        slice: the TPU slice.
        promised: the headroom that it must have, in percent.
        decode: rows and slots of a decode step that is planned as well.
    """

    what: str
    slice: str
    promised: int | None = None
    decode: tuple[int, int] | None = None

    @property
    def argument(self) -> str:
        """Returns the argument of configs/plan.py, with the number of chips of the slice."""
        return f"{self.what},chips={topology.parse(self.slice).chips}"

    @property
    def flags(self) -> str:
        """Returns the flags of `python -m msm_jax.plan`."""
        decode = "--decode_rows={} --decode_slots={}".format(*self.decode or (0, 0))
        return f"--config=configs/plan.py:{self.argument} --topology={self.slice} {decode}"


QWEN3, QWEN25 = "qwen3-32b,seq=8192,lora=64", "qwen2.5-32b,seq=8192,lora=64"
# One row per chip in one micro-batch, with layers recomputed in full unless offload is named.
PROMISED = [
    Row("llama3.1-8b,seq=4096", "v5e:8x8", 55),
    Row("llama3.1-8b,seq=4096", "v6e:4x8", 70),
    Row(QWEN3, "v5e:8x8", 33),
    Row(QWEN3, "v5e:4x8", 25),
    Row(QWEN3, "v5e:4x4", 14),
    Row(QWEN3, "v6e:4x8", 55),
    Row(QWEN3, "v5p:2x4x4", 80),
    Row(QWEN25, "v5e:8x8", 30),
    Row("qwen3-32b,seq=32768,lora=64,remat=offload", "v5e:8x8", 8),
    Row("qwen3-32b,seq=8192", "v5p:4x4x4", 60),
    *(Row(QWEN25, name) for name in ("v5e:4x8", "v5e:4x4", "v6e:4x8", "v5p:2x4x4")),
]
# If memory is left, more rows per chip hide the all-gathers behind the arithmetic.
FAST = [Row("llama3.1-8b,seq=4096,rows=4", "v6e:8x8", 8), Row(QWEN3, "v5p:2x4x4", 8)]
DECODE = [
    Row("llama3.1-8b,seq=4096", "v5e:4x4", None, (32, 8192)),
    Row("qwen3-32b,seq=8192,lora=64", "v6e:4x8", None, (32, 8192)),
]
WILL_IT_FIT = {
    "smollm2-135m,seq=2048": "SmolLM2-135M",
    "llama3.2-1b,seq=4096": "Llama-3.2-1B",
    "llama3.2-3b,seq=4096": "Llama-3.2-3B",
    "llama3.1-8b,seq=4096": "Llama-3.1-8B",
    "llama3.1-8b,seq=4096,lora=64": "Llama-3.1-8B",
    "qwen3-14b,seq=8192,lora=64": "Qwen3-14B",
    "qwen3-32b,seq=8192,lora=64": "Qwen3-32B",
}
SLICES = ("v5e:1x1", "v5e:2x4", "v5e:4x4", "v6e:1x1", "v6e:2x4", "v5p:2x2x1")
GAP = "…"


class Missing(Exception):
    """A plan whose figures are not in the cache."""


def planned(row: Row, compiler: Compiler, cached: bool) -> Plan | None:
    """Returns the plan of a row; None if it must be compiled and `cached` forbids that."""
    fields = settings.plain(config_file.get_config(row.argument))
    name, phases = phases_of(fields)
    slice_ = topology.parse(row.slice)
    jobs = plan_lib.jobs(phases, slice_, slice_.chips, row.decode)

    def say(what: str) -> None:
        if cached:
            raise Missing
        print(f"  {what}", flush=True)

    began = time.monotonic()
    try:
        plan = plan_lib.make(name, phases, slice_, jobs, compiler, None, say)
    except Missing:
        return None
    print(f"{row.what} on {row.slice}: {share(plan)}, {time.monotonic() - began:.0f} s", flush=True)
    return plan


def share(plan: Plan, which: int = 0) -> str:
    """Returns the headroom of one program of a plan as text, rounded down."""
    headroom = plan.measured[which].memory.headroom
    assert headroom is not None
    return f"{math.floor(100 * headroom)} %"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def training(rows: Sequence[Row], plans: Mapping[Row, Plan | None]) -> str:
    """Returns the table of train steps: memory, and the bound on speed."""
    heads = ["model and settings", "slice", "GiB per chip", "headroom (promised)", "GiB on the host"]
    heads += ["s per step, at least", "bound by", "MFU, at most", "s on the links (all-reduced)", "CPU s to plan"]
    found = []
    for row in rows:
        plan, begin = plans[row], [f"`{row.what}`", f"`{row.slice}`"]
        if plan is None:
            found.append([*begin, *[GAP] * 8])
            continue
        one = plan.measured[0]
        bound, memory = one.bound, one.memory
        found.append([
            *begin, f"{memory.needed / GIB:.2f} / {memory.capacity / GIB:.2f}",
            f"**{share(plan)}**" + (f" ({row.promised} %)" if row.promised else ""), f"{memory.host / GIB:.1f}",
            *([GAP] * 4 if bound is None else [
                f"{bound.seconds:.2f}", bound.binds, f"{100 * bound.mfu:.1f} %",
                f"{sum(bound.links.values()):.2f} ({report.all_reduced(one, bound):.2f})",
            ]),
            f"{one.figures['cpu_seconds']:.0f}",
        ])
    return table(heads, found)


def decoding(rows: Sequence[Row], plans: Mapping[Row, Plan | None]) -> str:
    """Returns the table of decode steps: memory, and the bound on speed."""
    heads = ["model", "slice", "rows × slots", "GiB per chip", "headroom"]
    heads += ["tokens/s, at most", "bound by", "CPU s to plan"]
    found = []
    for row in rows:
        assert row.decode is not None
        plan = plans[row]
        begin = [f"`{row.what.split(',')[0]}`", f"`{row.slice}`", f"{row.decode[0]} × {row.decode[1]:,}"]
        if plan is None:
            found.append([*begin, *[GAP] * 5])
            continue
        one = plan.measured[1]
        bound, memory = one.bound, one.memory
        found.append([
            *begin, f"{memory.needed / GIB:.2f} / {memory.capacity / GIB:.2f}", f"**{share(plan, 1)}**",
            *([GAP] * 2 if bound is None else [f"{bound.tokens_per_second:,.0f}", bound.binds]),
            f"{one.figures['cpu_seconds']:.0f}",
        ])
    return table(heads, found)


def fitting(plans: Mapping[Row, Plan | None]) -> str:
    """Returns the table of models by slices: the headroom, the change that makes the model fit, or "no"."""
    found = []
    for what, name in WILL_IT_FIT.items():
        words = dict(word.split("=") for word in what.split(",")[1:])
        how = f"LoRA r{words['lora']}" if "lora" in words else "all weights"
        cells = [_cell(plans[Row(what, slice_)]) for slice_ in SLICES]
        found.append([f"{name}, {how}, {int(words['seq']):,}", *cells])
    return table(["", *(f"{name} ({topology.parse(name).chips})" for name in SLICES)], found)


def _cell(plan: Plan | None) -> str:
    if plan is None:
        return GAP
    if plan.fits:
        return share(plan)
    tried = plan.measured[0].tried
    return f"with {tried[-1].change}" if tried and tried[-1].memory.fits else "no"


def short(plans: Mapping[Row, Plan | None]) -> list[str]:
    """Returns a sentence for each of `PROMISED` that has less headroom than promised or is not planned."""
    found = []
    for row in PROMISED:
        plan = plans[row]
        if plan is None:
            found.append(f"`{row.what}` on `{row.slice}` is not planned yet")
        elif row.promised and 100 * (plan.measured[0].memory.headroom or 0.0) < row.promised:
            found.append(f"`{row.what}` on `{row.slice}` has {share(plan)}, promised {row.promised} %")
    return found


def machine() -> str:
    """Returns the name of this machine's processor, with its cores."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    speed = re.search(r"^cpu MHz\s*: ([\d.]+)$", text, re.MULTILINE)
    name = model.group(1) if model else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}" + (f", {float(speed.group(1)) / 1000:.2f} GHz" if speed else "")


TEXT = """# Plans

What `python -m msm_jax.plan` computes for models on TPU slices, without a TPU: TPU's compiler reports the bytes, and
no program was run. `make plans` wrote this page on {machine}, with jax {jax} and libtpu {libtpu}.
Unless the settings say otherwise, each chip has one row in one micro-batch, layers are recomputed in full, weights are
split over all chips by fsdp, and attention is computed by the splash kernel.

Each row is the result of the command

    python -m msm_jax.plan --config=configs/plan.py:SETTINGS,chips=N --topology=SLICE

## My model, my chips: will it fit?

Each cell gives the share of a chip's memory that stays free. If the model does not fit, the cell gives the first change
that was tried and makes it fit, or else "no". The number of chips is in brackets. {gap}

{fitting}

## Promised

Headroom is (capacity − program − arguments) / capacity, with all three from the compiler's log. {short}

{promised}

Gradients should be reduce-scattered over fsdp. On most slices TPU's compiler replaces this by an all-reduce of twice
the bytes, even for an explicit `psum_scatter`. "all-reduced" is the minimum time that these all-reduces take on the
links. If the time on the links is below that of the arithmetic, both can overlap. More rows per chip help, because the
arithmetic grows and the traffic does not.

## Fast

The bounds of the roofline, for settings that leave at least 8 % of memory free. {convention}

{fast}

## Decoding

{decode}
"""


def main() -> int:
    """Plans every row and writes the page; returns the exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "plans.md")
    parser.add_argument("--cached", action="store_true", help="compile nothing; leave gaps for missing plans")
    args = parser.parse_args()
    rows = [*PROMISED, *FAST, *DECODE, *(Row(what, slice_) for what in WILL_IT_FIT for slice_ in SLICES)]
    with command.compiler_for(tpu=True) as compiler:
        plans = {row: planned(row, compiler, args.cached) for row in rows}
    missed = short(plans)
    text = TEXT.format(
        **compiler.versions, machine=machine(), fitting=fitting(plans), promised=training(PROMISED, plans),
        short=f"Missed: {'; '.join(missed)}." if missed else "All promises are met.", fast=training(FAST, plans),
        decode=decoding(DECODE, plans), convention=plan_lib.roofline.CONVENTION,
        gap=f'"{GAP}" was not planned.' if None in plans.values() else "",
    )
    args.out.write_text(re.sub(r" +$", "", text, flags=re.MULTILINE))
    for line in missed:
        print(line, file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
