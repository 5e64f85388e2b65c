"""What a compiled program sends between devices, read from its text (XLA's HLO).

A collective stands once in the text for all iterations of the loops around it, and asynchronous ones stand in several
computations under one channel; so each channel counts once, times the trips of its loops. Those that `shard_map` makes
share channel 1, and are told apart by the names that asynchronous ones carry, or by where they stand. The text has no
trip counts: they are the constants that the loops' conditions compare with.
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
    """One collective of a program.

    Attributes:
        kind: one of `KINDS`.
        shape: of the whole array, as the text has it: what a gather makes, what a reduction takes.
        bytes: of that array.
        trips: times that it runs in one execution; None where a loop's trips follow from the data (they count once).
        groups: the numbers of the devices that exchange with each other, in the order of the mesh.
        channel: its number.
        source: the name of the operation in the Python program, as far as the compiler kept it.
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
        """Devices in a group."""
        return max(len(group) for group in self.groups)

    @property
    def received(self) -> float:
        """Bytes that each device must at least receive in one execution, trips included."""
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
    """All collectives of a compiled program, `jax.stages.Compiled.as_text()`, in the order of their channels."""
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
    """The mesh axes along which a group's devices differ; `mesh` has the devices along each axis, in order."""
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
    """How often each computation runs; 0 for those that nothing calls."""
    calls: dict[str, list[tuple[str, int]]] = {name: [] for name in computations}
    for name, instructions in computations.items():
        for one in instructions:
            trips = _trips(one, computations) if one.op == "while" else 1
            for group in _CALLED.findall(one.rest):
                calls[name] += [(callee, trips) for callee in re.findall(r"%([\w.\-]+)", group)]
    times = dict.fromkeys(computations, 0)

    def visit(name: str, count: int) -> None:
        # A computation that several instructions call is text that they share: it runs as often as all of them.
        times[name] += count
        for callee, trips in calls.get(name, ()):
            if callee in times:
                visit(callee, count * trips)

    visit(entry, 1)
    return times


def _trips(loop: _Instruction, computations: Mapping[str, Sequence[_Instruction]]) -> int:
    """The constant that a loop's condition compares with, or 1 where it compares with no constant."""
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
    """The whole array of a collective: the largest of those it makes, or for a reduction that scatters, takes."""
    arrays = _ARRAY.findall(one.type)
    if kind == "reduce-scatter":
        operands = set(re.findall(r"%([\w.\-]+)", one.rest.split("),", 1)[0]))
        arrays += [array for other in instructions if other.name in operands for array in _ARRAY.findall(other.type)]
        arrays += _ARRAY.findall(one.rest.split("),", 1)[0])
    sizes = [(_size(dtype, dims), f"{dtype}[{dims}]") for dtype, dims in arrays]
    if kind == "reduce-scatter" or (one.op.endswith("-start") and kind != "all-reduce"):
        # An asynchronous one has its operand among its results.
        size, shape = max(sizes)
        return shape, size
    # Several arrays in one collective travel together.
    return " ".join(shape for _, shape in sizes), sum(size for size, _ in sizes)


def _size(dtype: str, dims: str) -> int:
    return _BYTES[dtype] * math.prod(int(length) for length in dims.split(",") if length)


def _groups(rest: str) -> tuple[tuple[int, ...], ...]:
    """Replica groups in any of their notations; of a permutation, the devices of each of its cycles or chains."""
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
    raise ValueError(f"a collective without groups that can be read: {rest[:200]}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _ordered(dims: str, order: str | None) -> np.ndarray:
    """The numbers of devices, counted over `dims` and read with their axes in another order."""
    ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


def _along(mesh: str, devices: str | None, axes: str) -> tuple[tuple[int, ...], ...]:
    """Groups along some axes of a mesh that the text spells out; 'x':(m)k is the part of x after its first m ways.

    `devices` is in which order they lie on the mesh: listed, or as in `_ordered`.
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
