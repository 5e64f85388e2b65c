"""The collectives of a compiled program, read from its text (XLA's HLO).

The text contains a collective once for all iterations of the loops around it, and an asynchronous collective in several
computations under one channel. Each channel therefore counts once, times the trips of its loops. The collectives of
`shard_map` share channel 1; they are distinguished by the names of the asynchronous ones, or by their position. If the
text does not say how many trips a loop makes, the number is the constant in the loop's condition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
          "f32": 4, "s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\([^\n]*\) -> [^\n]*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b(" + "|".join(_BYTES) + r")\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations|branch_computations|true_computation|"
                     r"false_computation)=\{?((?:%[\w.\-]+(?:, )?)+)\}?")
_OP = re.compile(r"\s([a-z][a-z0-9\-]*)\(")


@dataclass(frozen=True)
class Collective:
    """A collective of a program.

    Attributes:
        kind: one of `KINDS`.
        shape: the whole array as the text writes it: the result of a gather, or the operand of a reduction.
        bytes: the size of that array.
        trips: how often it runs in one execution; a loop whose number of trips depends on the data counts as one.
        groups: the numbers of the devices that communicate with each other, in the order of the mesh.
        channel: the number of its channel.
        source: the name of the operation in the Python program, "" if the compiler did not keep it.
    """

    kind: str
    shape: str
    bytes: int
    trips: int
    groups: tuple[tuple[int, ...], ...]
    channel: int
    source: str

    @property
    def size(self) -> int:
        """The number of devices in a group."""
        return max(len(group) for group in self.groups)

    @property
    def received(self) -> float:
        """The least bytes that each device must receive in one execution, all trips included."""
        n = self.size
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(self.kind, (n - 1) / n)
        return self.bytes * share * self.trips


@dataclass(frozen=True)
class _Instruction:
    name: str
    op: str
    type: str
    rest: str


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a compiled program's text (`jax.stages.Compiled.as_text()`), sorted by channel."""
    computations, entry = _parse(text)
    times = _times(computations, entry)
    found: dict[tuple[object, ...], Collective] = {}
    for name, instructions in computations.items():
        for one in instructions:
            kind = one.op.removesuffix("-start")
            if kind not in KINDS or times[name] == 0:
                continue
            channel = int(_number(r"channel_id=(\d+)", one.rest) or 1)
            groups = _groups(one.rest)
            if len(groups) == 0 or max(map(len, groups)) < 2:
                continue
            shape, size = _moved(kind, one, instructions)
            source = re.search(r'op_name="([^"]*)"', one.rest)
            item = Collective(kind, shape, size, times[name], groups, channel, source.group(1) if source else "")
            alone = re.search(r'(?:chain_id|async_collective_name)="[^"]*"', one.rest)
            which = channel if channel != 1 else alone.group() if alone else (name, one.name)
            key = (kind, which, shape, groups)
            if key not in found or item.trips > found[key].trips:
                found[key] = item
    return sorted(found.values(), key=lambda item: (item.kind, item.channel))


def axes_of(groups: Sequence[Sequence[int]], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the mesh axes along which a group's devices differ; `mesh` maps each axis to its devices, in order."""
    coordinates = np.array(np.unravel_index(np.array(max(groups, key=len)), tuple(mesh.values())))
    return tuple(name for name, along in zip(mesh, coordinates, strict=True) if len(set(along.tolist())) > 1)


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry = at = ""
    for line in text.splitlines():
        begin = _COMPUTATION.match(line)
        if begin:
            at = begin.group(2)
            computations[at] = []
            entry = at if begin.group(1) else entry
            continue
        found = _INSTRUCTION.match(line)
        if found and at:
            name, rest = found.groups()
            op = _OP.search(" " + rest)
            if op:
                computations[at].append(_Instruction(name, op.group(1), rest[: op.start()], rest[op.start() :]))
    return computations, entry


def _times(computations: Mapping[str, Sequence[_Instruction]], entry: str) -> dict[str, int]:
    """Returns how often each computation runs; 0 for a computation that is never called."""
    calls: dict[str, list[tuple[str, int]]] = {name: [] for name in computations}
    for name, instructions in computations.items():
        for one in instructions:
            trips = _trips(one, computations) if one.op == "while" else 1
            for group in _CALLED.findall(one.rest):
                calls[name] += [(callee, trips) for callee in re.findall(r"%([\w.\-]+)", group)]
    times = dict.fromkeys(computations, 0)

    def visit(name: str, count: int) -> None:
        # A computation that several instructions call runs as often as all of them together.
        times[name] += count
        for callee, trips in calls.get(name, ()):
            if callee in times:
                visit(callee, count * trips)

    visit(entry, 1)
    return times


def _trips(loop: _Instruction, computations: Mapping[str, Sequence[_Instruction]]) -> int:
    """Returns the number of trips of a loop: known, or the constant in its condition, or 1 if there is none."""
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known:
        return int(known.group(1))
    if condition is None:
        return 1
    limits = []
    for one in computations.get(condition.group(1), ()):
        value = _number(r"constant\((\d+)\)", one.rest)
        if one.op == "constant" and value is not None and one.type.startswith(("s32[]", "u32[]")):
            limits.append(int(value))
    return max(limits, default=1) or 1


def _moved(kind: str, one: _Instruction, instructions: Sequence[_Instruction]) -> tuple[str, int]:
    """Returns shape and bytes of a collective's whole array: its largest result, or the operand of a reduce-scatter."""
    arrays = _ARRAY.findall(one.type)
    if kind == "reduce-scatter":
        operands = set(re.findall(r"%([\w.\-]+)", one.rest.split("),", 1)[0]))
        arrays += [array for other in instructions if other.name in operands for array in _ARRAY.findall(other.type)]
        arrays += _ARRAY.findall(one.rest.split("),", 1)[0])
    sizes = [(_size(dtype, dims), f"{dtype}[{dims}]") for dtype, dims in arrays]
    if kind == "reduce-scatter" or (one.op.endswith("-start") and kind != "all-reduce"):
        # The results of an asynchronous collective include its operand.
        size, shape = max(sizes)
        return shape, size
    # A collective of several arrays sends them together.
    return " ".join(shape for _, shape in sizes), sum(size for size, _ in sizes)


def _size(dtype: str, dims: str) -> int:
    return _BYTES[dtype] * math.prod(int(length) for length in dims.split(",") if length)


def _groups(rest: str) -> tuple[tuple[int, ...], ...]:
    """Returns replica groups from any of their notations; those of a permutation are its cycles and chains."""
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{}]*)\))? ?\{([^}]*)\}", rest)
    if meshed:
        return _along(*meshed.groups())
    listed = re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", rest)
    if listed:
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed.group(1)))
    compact = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if compact:
        return tuple(map(tuple, _ordered(*compact.groups()[1:]).reshape(_numbers(compact.group(1))).tolist()))
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest)
    if pairs:
        return _chains([tuple(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)\}", pairs.group(1))])
    raise ValueError(f"cannot read the groups of a collective: {rest[:200]}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _ordered(dims: str, order: str | None) -> np.ndarray:
    """Returns the device numbers of an array of shape `dims` whose axes are then transposed to `order`."""
    ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


def _along(mesh: str, devices: str | None, axes: str) -> tuple[tuple[int, ...], ...]:
    """Returns the groups along some axes of a mesh that the text describes.

    In `axes`, 'x':(m)k is the part of axis x with k devices that follows its first m. `devices` gives the order of the
    devices on the mesh, as a list or as in `_ordered`.
    """
    lengths = {name: int(length) for name, length in re.findall(r"'([^']+)'=(\d+)", mesh)}
    named = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
    dims: list[int] = []
    inside: list[int] = []
    for name, length in lengths.items():
        parts = [(1, length)] if (name, "", "") in named else [(int(m), int(k)) for n, m, k in named if n == name]
        at = 1
        for before, ways in sorted(parts):
            dims += [before // at, ways]
            inside.append(len(dims) - 1)
            at = before * ways
        dims.append(length // at)
    ids = np.arange(math.prod(dims))
    if devices:
        counted = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", devices)
        ids = _ordered(*counted.groups()) if counted else np.array(_numbers(devices))
    ids = ids.reshape(dims)
    outside = [axis for axis in range(len(dims)) if axis not in inside]
    size = math.prod(dims[axis] for axis in inside)
    return tuple(map(tuple, ids.transpose(outside + inside).reshape(-1, size).tolist()))


def _chains(pairs: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    group_of: dict[int, set[int]] = {}
    for source, target in pairs:
        joined = group_of.get(source, {source}) | group_of.get(target, {target})
        for member in joined:
            group_of[member] = joined
    unique = {id(group): tuple(sorted(group)) for group in group_of.values()}
    return tuple(sorted(unique.values()))


def _number(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None
