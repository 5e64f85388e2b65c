"""The points of a sweep: experiments that differ in a few settings and run side by side, each in its own process."""

import dataclasses
import itertools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.analysis import sweep as sweep_report
from msm_jax.analysis.asked import SweepExpectation
from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.experiments import checks
from msm_jax.experiments.config import ExperimentConfig, slots
from msm_jax.experiments.live import duration
from msm_jax.experiments.run import LOCAL, address_of
from msm_jax.foundation import hashing, mirror, settings, storage, termination

# A value is made of quoted texts, of lists in brackets, and of anything else but commas.
_VALUE = re.compile(r"""(?:"[^"]*"|'[^']*'|\((?:[^()]|\([^()]*\))*\)|\[[^][]*\]|[^,"'()[\]])+""")
_LONGEST_NAME = 200
_CONFIG = '''"""The settings of one point of a sweep, written by msm_jax.sweep."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({!r})
'''


@dataclasses.dataclass(frozen=True)
class Point:
    """One combination of values, {dotted field: value as it was written}, with the settings of its experiment."""

    name: str
    values: Mapping[str, str]
    config: ExperimentConfig


def points(vary: Sequence[str], load: Callable[[dict[str, Any]], Mapping[str, Any]]) -> list[Point]:
    """Returns a point for every combination of values; the values of the last field change fastest.

    Args:
        vary: "FIELD=VALUE,VALUE,..." for each field; `msm_jax.sweep` says how values are written.
        load: returns the settings of the experiment with the flags {"config.FIELD": value}.

    Raises:
        InputError: an option is not of this form, a field is unknown, or a value has the wrong type.
    """
    values: dict[str, list[str]] = {}
    for option in vary or [""]:
        field, _, text = option.partition("=")
        parts = _VALUE.findall(text)
        written = dict.fromkeys(value for part in parts for value in _spelt_out(part))
        if not field or field in values or not written or ",".join(parts) != text:
            raise InputError(f"--vary={option}: write --vary=FIELD=VALUE,VALUE,... once for each field; see --help")
        values[field] = list(written)
    return [_point(dict(zip(values, chosen, strict=True)), load) for chosen in itertools.product(*values.values())]


def _spelt_out(written: str) -> list[str]:
    """Returns the integers of a range, and any other value as it is."""
    ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", written)
    return [str(n) for n in range(int(ends[1]), int(ends[2]) + 1)] if ends else [written]


def _point(values: dict[str, str], load: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Point:
    varied = {f"config.{field}": re.sub(r"^([\"'])(.*)\1$", r"\2", value) for field, value in values.items()}
    config = settings.build(ExperimentConfig, load(varied))
    checks.check_settings(config)
    name = ",".join(f"{field}={value}" for field, value in values.items())
    safe = re.sub(r"[^\w.,=@+()-]", "_", name)[:_LONGEST_NAME]
    return Point(name if safe == name else f"{safe}~{hashing.digest(name)[:12]}", values, config)


def run(
    points: Sequence[Point],
    workdir: Path,
    store: Path,
    jobs: int,
    executor: str = LOCAL,
    program: str = "msm_jax.experiment",
    descriptors: Sequence[int] = (),
) -> None:
    """Brings every point up to date, and writes and prints the joined results of those that are done.

    Args:
        points: what to run, in this order.
        workdir: the directory of the sweep.
        store: the directory of the results that points share.
        jobs: the number of points that run at once, 0 for one per core. They share the cores equally.
        executor: where a point runs its phases and evals; see `experiments.run.run`.
        program: the module that runs the experiment of a point.
        descriptors: file descriptors that points inherit, such as that of the lock of `workdir`.

    Raises:
        InputError, WorkError, Preempted: the point that failed first exited with the status of this error.
        Preempted: a signal came; it was passed on to the points, which saved their work.
    """
    address_of(executor)
    cores = slots(dataclasses.replace(points[0].config, workers=0))
    jobs = min(jobs or cores, len(points))
    waiting, running = list(points), dict[subprocess.Popen[bytes], Point]()
    done, failed = list[Point](), list[tuple[Point, int]]()
    signals, passed_on, start = termination.Requests(), 0, time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signals.add(received))
    while running or (waiting and not signals.count):
        while waiting and len(running) < jobs and not signals.count:
            point = waiting.pop(0)
            running[_start(point, workdir, store, max(1, cores // jobs), executor, program, descriptors)] = point
        time.sleep(0.1)
        count = signals.count
        for process in list(running):
            if count > passed_on:
                process.terminate()
            status = process.poll()
            if status is not None:
                point = running.pop(process)
                if status == 0:
                    done.append(point)
                elif not signals.count:
                    failed.append((point, status))
                seconds = time.monotonic() - start
                left = duration(seconds / len(done) * (len(waiting) + len(running))) if done else "?"
                ended = "done" if status == 0 else f"exit status {status}, log: {mirror.named(_log(workdir, point))}"
                rate = f"{len(done)} of {len(points)} points, {3600 * len(done) / seconds:.1f} an hour, {left} left"
                print(f"[{duration(seconds):>7}] {point.name}: {ended}; {rate}", flush=True)
        passed_on = count
    if done:
        command = "git describe --always --dirty --abbrev=40 2>/dev/null"
        commit = subprocess.run(command, shell=True, cwd=hashing.PACKAGE_ROOT, capture_output=True, text=True).stdout
        reports = [
            {
                "name": point.name,
                "values": point.values,
                "report": storage.read_json(_log(workdir, point).with_name("report.json")),
            }
            for point in points
            if point in done
        ]
        markdown = sweep_report.write(reports, workdir, commit.strip(), expected_of(points))
        print(markdown, f"page: {mirror.named(workdir / 'sweep.html')}", sep="\n")
    if signals.count:
        finished = f"{len(done)} of {len(points)} points are done"
        raise Preempted(f"stopped by a signal; {finished}; run the same command again to continue")
    if failed:
        point, status = failed[0]
        last = _log(workdir, point).read_text(errors="replace").strip().rpartition("\n")[2]
        kind = {2: InputError, 75: Preempted}.get(status, WorkError)
        raise kind(f"{point.name}: exit status {status}: {last} (log: {_log(workdir, point)})")


def expected_of(points: Sequence[Point]) -> Mapping[str, SweepExpectation]:
    """Returns what is expected over the points: nothing, unless they are worlds that differ in their seed alone."""
    return points[0].config.sweep_expectations if set(points[0].values) == {"world.seed"} else {}


def _start(
    point: Point, workdir: Path, store: Path, workers: int, executor: str, program: str, descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Starts the experiment of a point in a session that Ctrl-C does not reach."""
    log = _log(workdir, point)
    config = settings.to_json(dataclasses.replace(point.config, workers=workers))
    storage.write_text(log.with_name("config.py"), _CONFIG.format(config))
    flags = [f"--config={log.with_name('config.py')}", f"--workdir={log.parent}", f"--store={store}"]
    if executor != LOCAL:
        flags.append(f"--executor={executor}")
    with log.open("wb") as output:
        command = [sys.executable, "-m", program, *flags]
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, pass_fds=descriptors)


def _log(workdir: Path, point: Point) -> Path:
    return workdir / "points" / point.name / "output.log"
