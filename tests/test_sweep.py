"""tools/sweep.py: the table counts what holds, and a failed world ends the sweep with its status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import sweep


def report(gate: float, conflict: float, low: float) -> dict:
    effect = {"diff": 0.3, "ci95": [0.1, 0.5]}
    return {
        "arms": {"base": {"gate": {"mean": gate}}},
        "contrasts": {
            "dissociation/conflict": {"diff": conflict, "ci95": [low, 0.9]},
            "dissociation/prefer_affordability": effect,
            "dissociation/prefer_tradition": effect,
        },
    }


@pytest.mark.parametrize(
    ("gate", "conflict", "low", "held"),
    [(0.95, 0.3, 0.01, True), (0.94, 0.8, 0.6, False), (0.99, 0.29, 0.1, False), (0.99, 0.8, 0.0, False)],
)
def test_a_world_holds_with_gate_effect_and_interval(gate, conflict, low, held):
    assert sweep.summary(report(gate, conflict, low))["held"] is held


def test_table_has_a_row_per_world_and_their_mean():
    worlds = {7: sweep.summary(report(0.96, 0.5, 0.2)), 3: sweep.summary(report(0.90, 0.7, 0.2))}
    lines = sweep.table(worlds).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows[2:]] == ["3", "7", "mean"]
    assert rows[-1] == ["mean", "0.930", "+0.60", "+0.30", "+0.30", "1 of 2"]


def test_a_world_that_stops_ends_the_sweep_and_the_next_run_continues(tmp_path: Path):
    """A stand-in for the experiment writes reports, and refuses world 2 until a file allows it."""
    package = tmp_path / "msm_jax"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "experiment.py").write_text(
        "import pathlib, sys\n"
        "flags = dict(word[2:].split('=', 1) for word in sys.argv[1:])\n"
        "if flags['config.world.seed'] == '2' and not pathlib.Path('allowed').exists(): sys.exit(75)\n"
        "workdir = pathlib.Path(flags['workdir'])\n"
        "workdir.mkdir(parents=True, exist_ok=True)\n"
        f"(workdir / 'report.json').write_text('''{json.dumps(report(0.97, 0.5, 0.1))}''')\n"
    )
    script = str(Path(sweep.__file__).resolve())
    command = [sys.executable, script, "--config=c.py", "--worlds=1-2", "--workdir=out"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 75
    (tmp_path / "allowed").touch()
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0
    assert "2 of 2" in (tmp_path / "out" / "sweep.md").read_text()
