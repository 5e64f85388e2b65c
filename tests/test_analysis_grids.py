"""Evals that are grids: each cell of each arm and of each contrast, with correction for the number of cells."""

import copy

import numpy as np
import pytest

from msm_jax.analysis import encode, findings, grid_tables, html, statistics
from msm_jax.errors import InputError

ROWS, COLUMNS = ("leaking", "murder", "exfiltration"), tuple(f"goal{n}" for n in range(9))
CELLS = [f"{row}/{column}" for row in ROWS for column in COLUMNS]
SAMPLES = 12


def results(lift: str = "murder/goal4") -> dict:
    """Returns eight seeds of two arms on 27 cells; they are alike except for one cell, in which one arm does harm."""
    rng = np.random.default_rng(5)
    cells = [cell for cell in CELLS for _ in range(SAMPLES)]
    ids = [f"{cell}/{number}" for cell in CELLS for number in range(SAMPLES)]
    arms = {}
    for arm in ("plain", "changed"):
        share = np.array([0.95 if arm == "changed" and cell == lift else 0.3 for cell in cells])
        rows = [(rng.random(len(cells)) < share).astype(float).tolist() for _ in range(8)]
        acts = [[score * float(place % 2) for place, score in enumerate(row)] for row in rows]
        arms[arm] = {"grid": {"per_seed": rows, "item_ids": ids, "cells": cells, "acts": acts}}
    return {
        "experiment": "grid",
        "seeds": [{"world": None, "pretrain": None, "seed": seed} for seed in range(8)],
        "arms": arms,
        "contrasts": {"change": {"eval": "grid", "terms": {"changed": 1, "plain": -1}}},
    }


@pytest.fixture(scope="module")
def found() -> findings.Findings:
    return findings.analyse(results())


def test_each_cell_is_estimated_from_its_own_items_and_corrected_for_all_cells(found):
    grid = found.grids["grid"]
    assert (grid.rows, grid.columns) == (ROWS, COLUMNS)
    scores = {arm: found.results.arms[arm]["grid"].values_SN for arm in ("changed", "plain")}
    tests = []
    for number, cell in enumerate(CELLS):
        own = {arm: values[:, number * SAMPLES : (number + 1) * SAMPLES] for arm, values in scores.items()}
        alone = statistics.contrast(own, {"changed": 1, "plain": -1})
        tests.append(alone.p_value)
        assert grid.contrasts["change"][cell].estimate == alone
        assert grid.arms["plain"][cell].mean == pytest.approx(own["plain"].mean())
        assert grid.arms["plain"][cell].n_items == SAMPLES
        assert grid.acts["plain"][cell].mean <= grid.arms["plain"][cell].mean
    assert [each.p_holm for each in grid.contrasts["change"].values()] == statistics.holm(tests)


def test_the_one_cell_that_differs_is_found_and_the_others_are_not(found):
    clear = [cell for cell, each in found.grids["grid"].contrasts["change"].items() if each.p_holm < 0.05]
    assert clear == ["murder/goal4"]
    (section,) = grid_tables.sections(found)
    (shown,) = section["contrasts"]
    marked = [(row, place) for row, cells in shown["rows"] for place, cell in enumerate(cells) if cell["mark"]]
    assert marked == [("murder", 4)]
    assert section["cells"] == len(shown["numbers"]) == 27
    assert all(row["effect"].startswith("h ") for row in shown["numbers"])


def test_report_json_and_the_page_hold_every_cell(found):
    entry = encode.content(found)["grids"]["grid"]
    assert list(entry["contrasts"]["change"]) == CELLS
    assert list(entry["arms"]["plain"]) == list(entry["acts"]["changed"]) == CELLS
    cell = entry["contrasts"]["change"]["murder/goal4"]
    assert cell["ci95"][0] < cell["diff"] < cell["ci95"][1] and cell["p_value"] < cell["p_holm"] < 0.05
    act = encode.content(found)["arms"]["plain"]["grid"]["act"]
    assert act["ci95"][0] < act["mean"] < act["ci95"][1]
    page = html.render(found)
    assert page.count('<table class="heat">') == 5, "one contrast, and two arms by verdict and by act"
    assert page.count('<td class="clear"') == 1


def test_cells_that_do_not_fit_the_items_are_refused():
    bad = copy.deepcopy(results())
    bad["arms"]["plain"]["grid"]["cells"].pop()
    with pytest.raises(InputError, match=r"results\.arms\.plain\.grid\.cells has 323 entries for 324 item_ids"):
        findings.analyse(bad)


def test_a_cell_without_a_score_is_blank_and_an_eval_without_cells_is_no_grid():
    silent = results()
    for entry in silent["arms"].values():
        for row in entry["grid"]["per_seed"]:
            row[:SAMPLES] = [None] * SAMPLES
    found = findings.analyse(silent)
    assert found.grids["grid"].arms["plain"][CELLS[0]].n_items == 0
    assert encode.content(found)["grids"]["grid"]["contrasts"]["change"][CELLS[0]]["diff"] is None
    (section,) = grid_tables.sections(found)
    first = section["arms"][0]["rows"][0][1][0]
    assert (first["text"], first["style"]) == ("n/a", "")
    for entry in silent["arms"].values():
        del entry["grid"]["cells"]
    assert findings.analyse(silent).grids == {}
