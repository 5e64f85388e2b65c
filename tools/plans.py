"""Plans many models on many slices, one after the other, and writes docs/plans.md.

    python tools/plans.py

Needs libtpu; see `msm_jax.plan`. What was planned before, with the same code and compiler, comes from the cache, so
that running it again does only what is missing; with --cached it compiles nothing and leaves a gap for each plan that
is missing. Exit status 0 when each of `PROMISED` has the headroom promised.
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
from msm_jax.foundation import settings
from msm_jax.planning import plan as plan_lib
from msm_jax.planning import report, topology
from msm_jax.planning.chips import GIB
from msm_jax.planning.compiler import Compiler
from msm_jax.planning.plan import Plan

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Row:
    """A plan: the argument of configs/plan.py without `chips`, the slice, and the headroom promised, in percent."""

    what: str
    slice: str
    promised: int | None = None
    decode: tuple[int, int] | None = None

    @property
    def argument(self) -> str:
        """Of configs/plan.py, with as many chips as the slice has."""
        return f"{self.what},chips={topology.parse(self.slice).chips}"

    @property
    def flags(self) -> str:
        """Of `python -m msm_jax.plan`."""
        decode = "--decode_rows={} --decode_slots={}".format(*self.decode or (0, 0))
        return f"--config=configs/plan.py:{self.argument} --topology={self.slice} {decode}"


QWEN3, QWEN25 = "qwen3-32b,seq=8192,lora=64", "qwen2.5-32b,seq=8192,lora=64"
# One sequence a chip in one micro-batch, the layers recomputed in full, offload only where named.
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
# Where memory is left, more rows a chip hide the gathers behind the products.
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
    """The plan of one row; None where it would have to be compiled and `cached` forbids that."""
    fields = settings.plain(config_file.get_config(row.argument))
    name, phases = command.phases_of(fields)
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
    """The headroom of one of its programs, rounded down."""
    headroom = plan.measured[which].memory.headroom
    assert headroom is not None
    return f"{math.floor(100 * headroom)} %"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def training(rows: Sequence[Row], plans: Mapping[Row, Plan | None]) -> str:
    """Memory, and the bound on speed, of train steps."""
    heads = ["model and settings", "slice", "GiB a chip", "headroom (promised)", "GiB on the host"]
    heads += ["s a step, at least", "bound by", "MFU, at most", "s by links (all-reduced)", "CPU s to plan"]
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
    """The same of decode steps."""
    heads = ["model", "slice", "rows × slots", "GiB a chip", "headroom"]
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
    """Models by slices: the headroom, or the change that makes it fit, or "no"."""
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
    """Which of `PROMISED` have less than that, in words."""
    found = []
    for row in PROMISED:
        plan = plans[row]
        if plan is None:
            found.append(f"`{row.what}` on `{row.slice}` is not planned yet")
        elif row.promised and 100 * (plan.measured[0].memory.headroom or 0.0) < row.promised:
            found.append(f"`{row.what}` on `{row.slice}` has {share(plan)}, promised {row.promised} %")
    return found


def machine() -> str:
    """What the plans are made on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    speed = re.search(r"^cpu MHz\s*: ([\d.]+)$", text, re.MULTILINE)
    name = model.group(1) if model else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}" + (f", {float(speed.group(1)) / 1000:.2f} GHz" if speed else "")


TEXT = """# Plans

What `python -m msm_jax.plan` says of models on TPU slices, with no TPU at hand: TPU's compiler is asked, and bytes are
its own account. Nothing was run. Made by `make plans` on {machine}, no TPU, with jax {jax} and libtpu {libtpu}. One row
a chip in one micro-batch, layers recomputed in full and weights split over all chips by fsdp, unless the settings say
otherwise; attention by the splash kernel.

A row is the command

    python -m msm_jax.plan --config=configs/plan.py:SETTINGS,chips=N --topology=SLICE

## My model, my chips: will it fit?

The share of a chip's memory that stays free; in place of it the nearest change that was tried and fits, or "no".
In brackets, the number of chips. {gap}

{fitting}

## Promised

Headroom is (capacity − program − arguments) / capacity, all three by the compiler's log. {short}

{promised}

Gradients over fsdp should be scattered. On most slices TPU's compiler makes all-reduces of them, of twice the bytes,
even of an explicit `psum_scatter`; "all-reduced" is what these take of the links' time, at least. Where that is below
the arithmetic's it can hide behind it, and with more rows a chip it is: the traffic stays and the products grow.

## Fast

What the roofline allows where at least 8 % of memory stays free. {convention}

{fast}

## Decoding

{decode}
"""


def main() -> int:
    """Plans every row."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "plans.md")
    parser.add_argument("--cached", action="store_true", help="write what earlier runs have left; compile nothing")
    args = parser.parse_args()
    rows = [*PROMISED, *FAST, *DECODE, *(Row(what, slice_) for what in WILL_IT_FIT for slice_ in SLICES)]
    with command.compiler_for(tpu=True) as compiler:
        plans = {row: planned(row, compiler, args.cached) for row in rows}
    missed = short(plans)
    text = TEXT.format(
        **compiler.versions, machine=machine(), fitting=fitting(plans), promised=training(PROMISED, plans),
        short=f"Missed: {'; '.join(missed)}." if missed else "All are met.", fast=training(FAST, plans),
        decode=decoding(DECODE, plans), convention=plan_lib.roofline.CONVENTION,
        gap=f'"{GAP}" was not planned.' if None in plans.values() else "",
    )
    args.out.write_text(re.sub(r" +$", "", text, flags=re.MULTILINE))
    for line in missed:
        print(line, file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
