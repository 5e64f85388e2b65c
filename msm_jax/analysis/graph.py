"""The phase graph as inline SVG, with one box for all seeds of a node. Columns follow the depth in the graph; boxes of
nodes that were reused are dashed."""

import dataclasses
from collections.abc import Sequence
from html import escape

from msm_jax.analysis.results import Node, short_labels

_CHAR = 6.7
_BOX = 38
_PASS = 10
_GAP_X = 28
_GAP_Y = 10
_MARGIN = 8


@dataclasses.dataclass(frozen=True)
class Group:
    """Nodes of one kind and label, which differ in the seed.

    `ran` and `reused` count them, and `seconds` is the sum over those that ran. `shown` is the part of the label that
    the label of a parent does not hold already.
    """

    kind: str
    label: str
    shown: str
    parents: tuple[int, ...]
    ran: int
    reused: int
    seconds: float

    @property
    def caption(self) -> str:
        """The second line of the box: kind, number of runs, and what they took."""
        n = self.ran + self.reused
        runs = f"{self.kind} \u00d7{n}" if n > 1 else self.kind
        if not self.ran:
            return f"{runs} · reused"
        reused = f", {self.reused} reused" if self.reused else ""
        return f"{runs} · {duration(self.seconds)}{reused}"


def duration(seconds: float) -> str:
    """Returns seconds as "0.4 s", "12 s", "3 min 05 s" or "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def collapse(nodes: Sequence[Node]) -> list[Group]:
    """Returns the nodes grouped by kind and label. Parents are indices of groups; an edge that a longer path implies is
    left out."""
    keys = list(dict.fromkeys((node.kind, node.label) for node in nodes))
    index = {key: i for i, key in enumerate(keys)}
    group_of = {node.id: index[node.kind, node.label] for node in nodes}
    parents: list[dict[int, None]] = [{} for _ in keys]
    for node in nodes:
        for parent in node.parents:
            if group_of[parent] != group_of[node.id]:
                parents[group_of[node.id]][group_of[parent]] = None
    ancestors = [_ancestors(parents, i) for i in range(len(keys))]
    short = short_labels(label for _, label in keys)
    groups = []
    for i, (kind, label) in enumerate(keys):
        members = [node for node in nodes if group_of[node.id] == i]
        direct = tuple(p for p in parents[i] if not any(p in ancestors[q] for q in parents[i] if q != p))
        ran = [node for node in members if node.status == "ran"]
        seconds = sum(node.seconds for node in ran)
        chains = [
            label.removeprefix(f"{keys[p][1]}/") for p in parents[i] if label.startswith(f"{keys[p][1]}/")
        ]
        shown = min(chains, key=len, default=short[label])
        groups.append(Group(kind, label, shown, direct, len(ran), len(members) - len(ran), seconds))
    return groups


def columns_of(groups: Sequence[Group]) -> list[int]:
    """Returns the column of each group: as far right as its children allow, which aligns phases of one kind."""
    children: list[list[int]] = [[] for _ in groups]
    for i, group in enumerate(groups):
        for parent in group.parents:
            children[parent].append(i)
    before_end: dict[int, int] = {}

    def distance(i: int, path: frozenset[int] = frozenset()) -> int:
        # Grouping could in principle close a cycle; an edge back into the path adds no distance.
        if i not in before_end:
            inner = path | {i}
            before_end[i] = 1 + max((distance(c, inner) for c in children[i] if c not in inner), default=-1)
        return before_end[i]

    deepest = max((distance(i) for i in range(len(groups))), default=0)
    return [deepest - distance(i) for i in range(len(groups))]


def svg(nodes: Sequence[Node]) -> str:
    """Returns the graph as one `<svg>` element, "" without nodes; colours come from the CSS classes of the page."""
    groups = collapse(nodes)
    if not groups:
        return ""
    spots = _spots(groups)
    n_columns = 1 + max(spot.column for spot in spots)
    columns = [sorted((s for s in spots if s.column == c), key=lambda s: s.order) for c in range(n_columns)]
    heights = [sum(spot.height + _GAP_Y for spot in column) - _GAP_Y for column in columns]
    height = 2 * _MARGIN + max(heights)
    x = float(_MARGIN)
    for column, used in zip(columns, heights, strict=True):
        captions = [groups[s.group] for s in column if s.group is not None]
        width = 20 + _CHAR * max(max(len(g.shown), 0.9 * len(g.caption)) for g in captions)
        y = (height - used) / 2
        for spot in column:
            spot.x, spot.y, spot.width = x, y + spot.height / 2, width
            y += spot.height + _GAP_Y
        x += width + _GAP_X
    edges = [_edge(parent, spot) for spot in spots for parent in spot.parents]
    boxes = [_box(groups[spot.group], spot) for spot in spots if spot.group is not None]
    passing = [
        f'<path class="edge" d="M{s.x:.1f} {s.y:.1f}h{s.width:.1f}"/>' for s in spots if s.group is None
    ]
    total = x - _GAP_X + _MARGIN
    label = f"Phase graph of {len(nodes)} nodes in {len(groups)} boxes"
    return (
        f'<svg class="graph" viewBox="0 0 {total:.0f} {height:.0f}" '
        f'width="{total:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="{label}">{"".join(edges)}{"".join(passing)}{"".join(boxes)}</svg>'
    )


@dataclasses.dataclass(eq=False)
class _Spot:
    """A place in a column, with its middle at `y`: of a group, or of an edge between boxes where `group` is None."""

    group: int | None
    column: int
    parents: "list[_Spot]"
    order: float = 0.0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0

    @property
    def height(self) -> float:
        return _PASS if self.group is None else _BOX


def _spots(groups: Sequence[Group]) -> list[_Spot]:
    column = columns_of(groups)
    real = [_Spot(i, column[i], []) for i in range(len(groups))]
    spots = list(real)
    for i, group in enumerate(groups):
        for parent in group.parents:
            last = real[parent]
            for between in range(column[parent] + 1, column[i]):
                last = _Spot(None, between, [last])
                spots.append(last)
            real[i].parents.append(last)
    children: dict[_Spot, list[_Spot]] = {spot: [] for spot in spots}
    for spot in spots:
        for before in spot.parents:
            children[before].append(spot)
    # Barycentre heuristic: order each column by the mean place of its neighbours, from left to right and back; spots
    # with equal means keep their order.
    depth = max(column)
    rightwards, leftwards = range(depth + 1), range(depth, -1, -1)
    parents = {spot: spot.parents for spot in spots}
    for order, neighbours in ((rightwards, parents), (leftwards, children)) * 3:
        for c in order:
            members = [spot for spot in spots if spot.column == c]
            place = {s: (_mean([n.order for n in neighbours[s]], s.order), s.order) for s in members}
            for rank, spot in enumerate(sorted(members, key=place.__getitem__)):
                spot.order = (rank + 0.5) / len(members)
    return spots


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _ancestors(parents: Sequence[dict[int, None]], i: int) -> set[int]:
    found: set[int] = set()
    waiting = list(parents[i])
    while waiting:
        j = waiting.pop()
        if j not in found:
            found.add(j)
            waiting.extend(parents[j])
    return found


def _edge(start: _Spot, end: _Spot) -> str:
    x0, x1 = start.x + start.width, end.x
    mid = (x0 + x1) / 2
    y0, y1 = start.y, end.y
    return (
        f'<path class="edge" d="M{x0:.1f} {y0:.1f}C{mid:.1f} {y0:.1f} {mid:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"/>'
    )


def _box(group: Group, spot: _Spot) -> str:
    state = "reused" if not group.ran else "ran"
    title = f"{group.kind} {group.label}: {group.ran} ran, {group.reused} reused"
    x, y = spot.x, spot.y - _BOX / 2
    return (
        f'<g class="node {state}"><title>{escape(title)}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{spot.width:.1f}" height="{_BOX}" rx="6"/>'
        f'<text x="{x + 10:.1f}" y="{y + 16:.1f}">{escape(group.shown)}</text>'
        f'<text class="caption" x="{x + 10:.1f}" y="{y + 30:.1f}">{escape(group.caption)}</text></g>'
    )
