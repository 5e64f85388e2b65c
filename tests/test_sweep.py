"""A sweep: its points and how their values are written, a stop in the middle, a failure, and the joined results."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from experiments_small import ROOT, write_files

from msm_jax import cli
from msm_jax.errors import InputError
from msm_jax.experiments import sweep as sweep_lib
from msm_jax.foundation import mirror

CONFIG = """
from experiments_small import fields
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(fields())
"""
VARY = ("--vary=phases.aft.steps=5..7", "--vary=seeds=(0,),(1,)")


@pytest.fixture
def here(tmp_path, tiny_corpus, monkeypatch):
    """A directory with a config and the files that it reads, and the environment of the stand-ins."""
    write_files(tmp_path, tiny_corpus)
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "tests")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("EXPERIMENT_LOG", str(tmp_path))
    return tmp_path


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "sweep_small", "--config=config.py", "--workdir=out", "--jobs=2", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sweep(*arguments: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a sweep."""
    process = start(*arguments)
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def ran(word: str) -> list[str]:
    """What the stand-ins have run so far, of the nodes whose id begins with `word`."""
    lines = Path("ran.log").read_text().splitlines() if Path("ran.log").exists() else []
    return [line.split()[0] for line in lines if line.startswith(word)]


def points(*vary: str) -> list[sweep_lib.Point]:
    return sweep_lib.points(vary, lambda varied: cli.load_config({"config": "config.py", **varied}))


def test_points_are_the_product_of_all_values_the_last_field_changing_fastest(here):
    found = points("phases.aft.steps=5..7", "seeds=(0,),(1,)", "phases.aft.optimizer.learning_rate=1e-3")
    values = [(p.config.phases["aft"]["steps"], p.config.seeds) for p in found]
    assert values == [(steps, (seed,)) for steps in (5, 6, 7) for seed in (0, 1)]
    assert len({point.name for point in found}) == 6
    assert found[0].config.phases["msm"]["steps"] == 10, "other fields stay"


def test_values_with_commas_dots_and_ranges_can_be_written(here):
    def values(vary: str, field) -> list:
        return [field(point.config) for point in points(vary)]

    assert values("seeds=(0,1),(2,)", lambda c: c.seeds) == [(0, 1), (2,)]
    assert values("workers=0..2,7", lambda c: c.workers) == [0, 1, 2, 7]
    assert values("phases.aft.optimizer.learning_rate=1e-3,2", lambda c: c.phases["aft"]["optimizer"]) == [
        {"learning_rate": 1e-3}, {"learning_rate": 2.0},
    ]  # fmt: skip
    written = """question="Cheap, or old?",'1..2',a..b,v1.5,it (or not),'say "so"'"""
    assert values(written, lambda c: c.question) == [
        "Cheap, or old?", "1..2", "a..b", "v1.5", "it (or not)", 'say "so"',
    ]  # fmt: skip
    assert values("shared=(),('pretrain',)", lambda c: c.shared) == [(), ("pretrain",)]


def test_names_of_points_are_readable_and_differ(here):
    assert [point.name for point in points("phases.aft.steps=5,6", "seeds=(0,),(1,)")] == [
        f"phases.aft.steps={steps},seeds=({seed},)" for steps in (5, 6) for seed in (0, 1)
    ]
    paths = [point.name for point in points("question=a/b,a:b,a_b," + "x" * 300 + "," + "x" * 301)]
    assert len(set(paths)) == 5
    assert all(re.fullmatch(r"[\w.,=~]{1,220}", name) for name in paths)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ((), "--vary=: write --vary=FIELD=VALUE"),
        (("seeds",), "--vary=seeds: write"),
        (("=1",), "--vary==1: write"),
        (("workers=",), "--vary=workers=: write"),
        (("workers=2..1",), "--vary=workers=2..1: write"),
        (("workers=1,,2",), "--vary=workers=1,,2: write"),
        (("seeds=(0,1",), "--vary=seeds=(0,1: write"),
        (("question=it's",), "--vary=question=it's: write"),
        (("workers=1", "workers=2"), "--vary=workers=2: write --vary=FIELD=VALUE,VALUE,... once for each field"),
        (("wrkers=1",), "--config.wrkers: unknown field; did you mean workers?"),
        (("phases.aftt.steps=1",), "--config.phases.aftt: unknown field; did you mean aft?"),
        (("phases.aft.stps=1",), "--config.phases.aft.stps: unknown field; did you mean steps?"),
        (("phases.aft.steps=5,x",), "--config.phases.aft.steps=x: invalid literal"),
        (("phases.aft.batch_rows=0",), "phases.aft: batch_rows = 0; it must be at least 1"),
        (("seeds.first=1",), "--config.seeds.first: config.seeds is (0, 1), which has no field first"),
        (("shared=('prtrain',)",), "shared: 'prtrain' is unknown; did you mean pretrain?"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_one_line(here, vary, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        points(*vary)
    assert "\n" not in str(caught.value)


def test_a_dry_run_lists_the_points_and_writes_nothing(here):
    status, out, _ = sweep(*VARY, "--dry_run")
    assert status == 0
    assert out.splitlines()[0] == "phases.aft.steps=5,seeds=(0,)"
    assert out.splitlines()[-1] == "6 points"
    assert not Path("out").exists()


def test_a_sweep_stops_continues_and_joins(here, monkeypatch):
    """3 × 2 points over two fields, stopped by SIGTERM when some are done and others run."""
    monkeypatch.setenv("EXPERIMENT_SLEEP", "0.3")
    process = start(*VARY)
    for line in process.stdout:
        if "2 of 6 points" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 75, error
    assert re.fullmatch(r"preempted: stopped by a signal; [2-5] of 6 points are done; run .* again.*\n", error)
    stopped = json.loads(Path("out/sweep.json").read_text())["points"]
    assert 2 <= len(stopped) < 6
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("done.json")}

    status, out, error = sweep(*VARY)
    assert (status, error) == (0, ""), error
    assert re.search(r"\] phases.aft.steps=\d,seeds=\(\d,\): done; 5 of 6 points, [\d.]+ an hour, \d+ s left", out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    joined = json.loads(Path("out/sweep.json").read_text())
    assert [point["name"] for point in joined["points"]] == [
        f"phases.aft.steps={steps},seeds=({seed},)" for steps in (5, 6, 7) for seed in (0, 1)
    ]
    for point in joined["points"]:
        report = json.loads(Path("out/points", point["name"], "report.json").read_text())
        assert point["contrasts"] == report["contrasts"]
        assert point["means"]["msm+aft"]["prefer"] == report["arms"]["msm+aft"]["prefer"]["mean"]
    page = Path("out/sweep.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert Path("out/plots/documents.png").read_bytes()[:4] == b"\x89PNG"
    assert Path("out/sweep.md").read_text() in out

    count = len(ran(""))
    assert sweep(*VARY)[0] == 0
    assert len(ran("")) == count, "nothing was missing"


def test_a_sweep_at_a_url_goes_on_elsewhere_and_trains_once_what_points_have_in_common(here, monkeypatch):
    url, bucket = f"file://{here}/bucket/out", here / "bucket/out"
    given = ("--vary=seeds=(0,),(1,)", f"--workdir={url}")
    monkeypatch.setenv(mirror.ROOT, str(here / "machine 1"))
    monkeypatch.setenv("EXPERIMENT_FAIL", "phase/pretrain/msm/seed1")
    status, out, error = sweep(*given)
    assert status == 1 and f"log: {url}/points/seeds=(1,)/output.log" in error and "machine 1" not in out + error
    monkeypatch.setenv(mirror.ROOT, str(here / "machine 2"))
    monkeypatch.delenv("EXPERIMENT_FAIL")
    status, out, error = sweep(*given)
    assert (status, error) == (0, "") and f"page: {url}/sweep.html" in out
    assert ran("phase:phase/pretrain").count("phase:phase/pretrain") == 1
    joined = json.loads((bucket / "sweep.json").read_text())["points"]
    assert [point["name"] for point in joined] == ["seeds=(0,)", "seeds=(1,)"]
    assert sorted(Counter(ran("phase:")).values()) == [1] * 6 + [2]
    assert (bucket / "points/seeds=(1,)/report.html").exists() and len(list((bucket / "store/phases").iterdir())) == 7
    assert not [path for path in (here / "machine 2").rglob("*") if path.is_file()]


def test_other_points_go_on_after_one_that_fails(here, monkeypatch):
    monkeypatch.setenv("EXPERIMENT_FAIL", "phase/pretrain/msm/seed1")
    status, out, error = sweep("--vary=seeds=(1,),(0,),(2,)", "--jobs=1")
    assert status == 1
    log = Path("out/points/seeds=(1,)/output.log").absolute()
    assert f"seeds=(1,): exit status 1, log: {log}; 0 of 3 points" in out
    assert "2 of 3 points" in out
    assert error.count("\n") == 1
    assert error.startswith("failed: seeds=(1,): exit status 1: failed: phase/pretrain/msm/seed1: loss is not finite")
    assert error.endswith(f"(log: {log})\n")
    joined = json.loads(Path("out/sweep.json").read_text())["points"]
    assert [point["name"] for point in joined] == ["seeds=(0,)", "seeds=(2,)"]
    monkeypatch.delenv("EXPERIMENT_FAIL")
    Path("pairs.jsonl").unlink()
    status, _, error = sweep("--vary=seeds=(1,),(0,)", "--jobs=1")
    assert status == 2
    assert error.startswith("refused: seeds=(1,): exit status 2: refused: pairs.jsonl: no such file")


def test_expectations_over_worlds_are_checked_where_only_the_world_varies(here):
    Path("worlds.py").write_text(
        CONFIG.replace("fields()", "fields(world={'kind': 'miniworld', 'seed': 0}, sweep_expectations=EXPECTED)")
        + "\nEXPECTED = {'documents': {'min': 0.3, 'above_zero_in': 2}}\n"
    )

    def of(*vary: str) -> list[sweep_lib.Point]:
        return sweep_lib.points(vary, lambda varied: cli.load_config({"config": "worlds.py", **varied}))

    assert sweep_lib.expected_of(of("world.seed=1..3"))["documents"].above_zero_in == 2
    assert sweep_lib.expected_of(of("world.seed=1..3", "seeds=(0,),(1,)")) == {}
    assert sweep_lib.expected_of(of("phases.aft.steps=5,6")) == {}
