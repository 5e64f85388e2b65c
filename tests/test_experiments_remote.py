"""An experiment at a URL: killed, continued on another machine, refused, or on a storage that fails, it ends with
the files of a run on a disk."""

import collections
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK_COMPILES
from experiments_remote import FAKES
from experiments_small import ROOT, enter, fields, write_files
from objects import here as here  # a fixture
from rich.console import Console

from msm_jax.analysis import plots
from msm_jax.errors import InputError
from msm_jax.experiments import lockstep
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import lock, mirror, settings
from tools import kills

SMALL = {
    "seeds": (0,),
    "workers": 1,
    "arms": {"base": ("pretrain",), "msm": ("pretrain", "msm")},
    "contrasts": {"documents": {"eval": "prefer", "terms": {"msm": 1.0, "base": -1.0}}},
}
RUNNER = """
import sys
from rich.console import Console
import experiments_remote as remote
import experiments_small as small
from msm_jax import cli
from msm_jax.analysis import plots
from msm_jax.foundation import settings
from msm_jax.experiments import lockstep
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from test_experiments_remote import SMALL

def main():
    remote.quick()
    plots.render = lambda findings: {}
    config = settings.build(ExperimentConfig, small.fields(**SMALL))
    run_lib.run(config, sys.argv[1], Console(width=200), remote.FAKES, setup="experiments_remote:quick")

sys.exit(cli.status(main, ["run"]))
"""


@pytest.fixture
def files(tmp_path, monkeypatch, tiny_corpus, here):
    """A directory with small files of a user's own; plots are not drawn."""
    write_files(tmp_path, tiny_corpus)
    enter(tmp_path, monkeypatch)
    monkeypatch.setattr(plots, "render", lambda findings: {"scores.png": b"PNG"})
    monkeypatch.setattr(mirror, "_PUSH_SECONDS", 0.1)
    return tmp_path


def run(workdir, store=None, console=None, **changes):
    """Runs an experiment to its end; returns how often each thing was done in this call."""
    before = len(done())
    config = settings.build(ExperimentConfig, fields(**{**SMALL, **changes}))
    with open(os.devnull, "w") as nowhere:
        console = console or Console(file=nowhere, width=200)
        run_lib.run(config, workdir, console, FAKES, setup="experiments_remote:quick", store=store)
    return collections.Counter(done()[before:])


def done():
    """What the stand-ins have done so far."""
    log = Path("ran.log")
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def kept(directory):
    """{name: content} of what an experiment leaves, without times, logs, databases and checkpoints."""
    found = {}
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        no = r"(^|/)(logs|cache|locks|checkpoints|references|nodes.json|report.html|lock|\..*|.*\.sqlite.*)(/|$)"
        if path.is_file() and not re.search(no, name):
            found[name] = re.sub(rb'"(seconds|wall_seconds|device_seconds)": [\d.]+', b"", path.read_bytes())
    return found


def check_same(bucket, disk):
    """Checks that an experiment at a URL has the files of one on a disk, and names no place of a machine."""
    found, usual = kept(bucket), kept(disk)
    assert found.keys() == usual.keys()
    assert not [name for name in found if found[name] != usual[name]]
    texts = [*found.values(), (bucket / "nodes.json").read_bytes(), (bucket / "report.html").read_bytes()]
    assert not [text for text in texts if b"/written/" in text]
    assert not Path(f"{bucket}.lock").exists()
    assert not [path for path in (mirror.root() / "written").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def disk(tmp_path_factory, tiny_corpus):
    """The undisturbed experiment on a disk."""
    directory = tmp_path_factory.mktemp("disk")
    write_files(directory, tiny_corpus)
    with pytest.MonkeyPatch.context() as patch:
        enter(directory, patch)
        patch.setattr(plots, "render", lambda findings: {"scores.png": b"PNG"})
        run("run")
    return directory / "run"


def start(url, machine):
    """Starts an experiment in a process of its own, with nothing on its machine."""
    environment = {
        **os.environ, "EXPERIMENT_SLEEP": "0.15", mirror.ROOT: str(Path(machine).absolute()),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }  # fmt: skip
    Path("runner.py").write_text(RUNNER)
    command = [sys.executable, "runner.py", url]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def lose(process):
    """Kills all processes of an experiment, as when its machine is lost."""
    attempt = kills.Attempt(Path(), process, Path(), 0, 0.0)
    assert kills.strike(attempt, "both", signal.SIGKILL, random.Random(0)) == "both"
    process.wait()


def until(word, process):
    while word not in done():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_a_run_that_is_killed_continues_and_on_another_machine_too(files, disk):
    url, bucket = f"file://{files}/bucket/run", files / "bucket/run"

    # The main process alone: the next one waits for its workers.
    first = start(url, "machine 1")
    until("step:phase/pretrain@8", first)
    first.kill()

    # The machine is lost in the middle of a phase.
    first = start(url, "machine 1")
    until("step:phase/pretrain/msm/seed0@6", first)
    with pytest.raises(InputError, match=rf"^{url}: in use by process {first.pid} on host"):
        run(url)
    lose(first)
    assert not (bucket / "report.json").exists()

    # Another one in an eval, whose replies are paid for.
    second = start(url, "machine 2")
    until("paid:eval/pretrain/msm/seed0/knowledge@6", second)
    lose(second)
    ran = done()
    assert ran.count("step:phase/pretrain@4") == 1, "a phase goes on"
    assert 1 <= ran.count("phase:phase/pretrain") <= 2, "what is done is not made again, but if that was not said yet"
    resumed = next(line for line in ran[ran.index("step:phase/pretrain/msm/seed0@6") :][1:] if line.startswith("step:"))
    assert resumed in ("step:phase/pretrain/msm/seed0@6", "step:phase/pretrain/msm/seed0@8")

    run(url)
    paid = collections.Counter(word for word in done() if word.startswith("paid:"))
    assert len(paid) == 30 and paid.total() < 35, "only replies that came just before the end are asked for again"
    check_same(bucket, disk)


def test_a_storage_that_fails_every_20th_call_costs_an_experiment_nothing(files, disk, caplog):
    run(f"flaky://{files}/bucket/run")
    logs = "".join(path.read_text() for path in Path("bucket/run/logs").iterdir())
    assert (caplog.text + logs).count("connection reset by peer; trying again (1 of 4)") >= 3
    check_same(files / "bucket/run", disk)


def test_experiments_share_a_store_at_a_url_and_are_reported_from_anywhere(files, monkeypatch):
    url = f"file://{files}/bucket/store"
    run("one", store=url)
    with lock.hold(url), pytest.raises(InputError, match=f"^{url}: in use by process {os.getpid()} on host"):
        run("two", store=url)
    assert not [word for word in run(f"file://{files}/bucket/two", store=url, name="other") if ":" in word]
    reports = [Path("one/report.json"), Path("bucket/two/report.json")]
    written = [report.read_bytes() for report in reports]
    assert written[0] == written[1].replace(b'"other"', b'"cheap"')
    monkeypatch.setenv(mirror.ROOT, str(files / "another machine"))
    with lock.hold(f"file://{files}/bucket/two"):  # as while it runs
        for workdir, report, before in zip(("one", f"file://{files}/bucket/two"), reports, written, strict=True):
            report.unlink()
            run_lib.render_at(workdir)
            assert report.read_bytes() == before
    with open("dry.txt", "w") as file:
        config = settings.build(ExperimentConfig, fields(**SMALL))
        run_lib.dry_run(config, f"file://{files}/bucket/new", Console(file=file, width=200), url)
    assert "0 to run" in Path("dry.txt").read_text()
    assert not Path("bucket/new").exists() and not Path("another machine").exists()


@pytest.mark.parametrize(("workdir", "more", "words"), [
    ("file:///bucket/run", {"store": "store"}, "store: is on this machine and file:///bucket/run is not"),
    ("file:///bucket/run", {"executor": "ray"}, "file:///bucket/run: one machine alone works at a URL; for several "),
    ("run", {"store": "gs://bucket/store", "executor": "ray"}, "gs://bucket/store: one machine alone works at a URL"),
    ("gs:///", {}, "gs://: name a directory below the root"),
])  # fmt: skip
def test_what_cannot_be_at_a_url_is_refused_in_one_line(files, workdir, more, words):
    config = settings.build(ExperimentConfig, fields(**SMALL))
    with pytest.raises(InputError, match=words):
        run_lib.run(config, workdir, Console(), **more)
    with pytest.raises(InputError, match="gs://bucket/run: one machine alone works at a URL; for several hosts"):
        lockstep.start(config, "gs://bucket/run", Console(), None)


@pytest.mark.long
def test_the_tiny_demo_ends_as_on_a_disk_where_its_machine_is_lost(tmp_path):
    """About three minutes: three starts of `cheese_mini:tiny`, the second of which is killed while a phase trains."""
    bucket, environment = tmp_path / "bucket/run", {**os.environ, "XLA_FLAGS": QUICK_COMPILES}

    def begin(workdir, machine):
        command = [sys.executable, "-m", "msm_jax.experiment", f"--config={kills.__file__}", f"--workdir={workdir}"]
        with Path(tmp_path, f"{machine}.log").open("wb") as log:
            here = {**environment, mirror.ROOT: str(tmp_path / machine)}
            process = subprocess.Popen(command, cwd=ROOT, env=here, stdout=log, stderr=log)
        return kills.Attempt(bucket, process, Path(log.name), 0, time.time())

    def is_amid_a_phase():
        runs = [path.parent.parent.parent for path in bucket.glob("phases/explain*/checkpoints/*/SHA256SUMS")]
        return any(not (run / "done.json").exists() for run in runs)

    disk = begin(tmp_path / "disk", "no machine")
    assert not disk.wait() and disk.process.returncode == 0, disk.said
    lost = begin(f"file://{bucket}", "machine 1")
    assert lost.wait(until=is_amid_a_phase), lost.said
    kills.strike(lost, "both", signal.SIGKILL, random.Random(0))
    lost.process.wait()
    made = {path: path.stat().st_mtime_ns for path in bucket.rglob("done.json")}
    other = begin(f"file://{bucket}", "machine 2")
    assert not other.wait() and other.process.returncode == 0, other.said
    assert {path: path.stat().st_mtime_ns for path in made} == made
    logs = "".join(path.read_text() for path in (bucket / "logs").iterdir())
    assert re.search(rf"explain_\w+: continues file://{bucket}/phases/explain_[^/]*/checkpoints/[1-9]", logs)
    found, usual = dict(kills.files_of(bucket)), dict(kills.files_of(tmp_path / "disk"))
    assert found.keys() == usual.keys() and not [name for name in found if found[name] != usual[name]]
    assert not [path for path in (tmp_path / "machine 2" / "written").rglob("*") if path.is_file()]
