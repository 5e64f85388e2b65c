"""The phase graph as it is drawn."""

import re

from analysis_example import example_graph

from msm_jax.analysis import graph
from msm_jax.analysis.results import Node


def test_the_graph_collapses_seeds_and_keeps_every_path():
    nodes = [
        Node(n["id"], n["kind"], n["label"], tuple(n["parents"]), n["status"], n["seconds"])
        for n in example_graph(3)
    ]
    assert len(nodes) > 45
    groups = graph.collapse(nodes)
    assert sum(group.ran + group.reused for group in groups) == len(nodes)
    assert len({(group.kind, group.label) for group in groups}) == len(groups) <= 24
    assert {group.label for group in groups} == {node.label for node in nodes}
    index = {(group.kind, group.label): i for i, group in enumerate(groups)}
    place = {node.id: index[node.kind, node.label] for node in nodes}

    def reaches(start: int, goal: int) -> bool:
        return start == goal or any(reaches(parent, goal) for parent in groups[start].parents)

    for node in nodes:
        for parent in node.parents:
            assert reaches(place[node.id], place[parent])
    column = graph.columns_of(groups)
    for i, group in enumerate(groups):
        assert all(column[parent] < column[i] for parent in group.parents)
    source = graph.svg(nodes)
    boxes = [
        tuple(float(x) for x in m)
        for m in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', source)
    ]
    assert len(boxes) == len(groups)
    for i, (x, y, w, h) in enumerate(boxes):
        for u, v, s, t in boxes[:i]:
            assert x + w <= u or u + s <= x or y + h <= v or v + t <= y
