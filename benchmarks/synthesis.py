"""The making of documents against the scripted server: faults, kills at random moments, and calls that take long.

    .venv-inspect/bin/python benchmarks/synthesis.py --part=faults      # a plan of 10,000 documents, all faults
    .venv-inspect/bin/python benchmarks/synthesis.py --part=kills       # kill -9 at 50 random moments of five plans
    .venv-inspect/bin/python benchmarks/synthesis.py --part=throughput  # 200 calls in flight, 10 s each

Client and server are processes of their own. What the client did is read from its files, its journal, the server's log,
and /proc. A claim that does not hold ends the program with status 1.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from benchmarks import record
from msm_jax import cli
from msm_jax.errors import WorkError
from msm_jax.synthesis import asking, pipeline
from msm_jax.synthesis.journal import Key
from msm_jax.synthesis.scripted import faults, log, process
from msm_jax.synthesis.scripted.server import Settings

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "data" / "specs" / "oversight_philosophy.md"
MODEL = "openai-api/scripted/writer"

_PART = flags.DEFINE_enum("part", "faults", ["faults", "kills", "throughput"], "What to measure.")
_DOCUMENTS = flags.DEFINE_integer("documents", 10_000, "Documents of the plan; at most 300 with kills.")
_KILLS = flags.DEFINE_integer("kills", 50, "Kills, over five plans.")
_LATENCY = flags.DEFINE_float("latency", 10.0, "Seconds of each call (throughput).")
_CALLS = flags.DEFINE_integer("calls", 200, "Calls in flight (throughput).")
_SHARE = flags.DEFINE_float("share", 0.02, "Share of the prompts that have each kind of fault.")


@dataclass(frozen=True)
class Run:
    """A run of `generate`: its settings, and where its files go."""

    directory: Path
    fields: dict[str, Any]

    @property
    def workdir(self) -> Path:
        """The workdir."""
        return self.directory / "work"

    @property
    def config(self) -> Path:
        """The config file, which is written when it is asked for."""
        path = self.directory / "config.py"
        self.directory.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
            f"    return ConfigDict(json.loads({json.dumps(self.fields)!r}))\n"
        )
        return path

    def start(self, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts `python -m msm_jax.generate`; what it says goes to the file `client.log`."""
        command = [sys.executable, "-m", "msm_jax.generate", f"--config={self.config}", f"--workdir={self.workdir}"]
        with (self.directory / "client.log").open("ab") as output:
            variables = {**os.environ, "JAX_PLATFORMS": "cpu", "SCRIPTED_API_KEY": "none", **(environment or {})}
            return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=variables)

    def finish(self) -> None:
        """Runs to the end.

        Raises:
            WorkError: the run failed.
        """
        if status := self.start().wait():
            said = (self.directory / "client.log").read_text(errors="replace").splitlines()
            raise WorkError(f"generate ended with status {status}: {said[-1] if said else 'without a word'}")

    def files(self) -> dict[str, bytes]:
        """Returns the content of the files that say what was made."""
        kept = [*self.workdir.glob("*.jsonl"), *self.workdir.glob("coverage.json")]
        return {path.name: path.read_bytes() for path in kept}

    def answered(self) -> dict[tuple[str, int | None], float]:
        """Returns when each reply was put on disk, {(hash of the prompt, seed): seconds since 1970}."""
        path = self.workdir / pipeline.JOURNAL
        if not path.is_file():
            return {}
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT stage, item, prompt_sha256, attempt, writer, time FROM replies")
            found = [(Key(*row[:5]), row[5]) for row in rows]
        return {(key.prompt_sha256, asking.seed_of(self.fields["run"]["seed"], key)): when for key, when in found}


def documents_fields(url: str, documents: int, concurrency: int, seed: int = 0, **fields: Any) -> dict[str, Any]:
    """Returns settings of a plan of about so many documents of the philosophy spec, of at least 20."""
    shape = {"domains": 4, "subdomains": 5, "assertions": 5} if documents >= 1000 else {
        "domains": 2, "subdomains": 2, "assertions": 5}  # fmt: skip
    assertions = shape["domains"] * shape["subdomains"] * shape["assertions"]
    options = {"attempt_timeout": 10, "max_retries": 8}
    return {
        "spec": {"path": str(SPEC), "assistant": "Iris", "provider": "Northwind Labs"},
        "writer": {"model": MODEL, "base_url": url, "options": options},
        "plan": {**shape, "document_types": 5, "documents_per_assertion": documents // assertions},
        "text": {"words": 300, "plan_tokens": 100, "text_tokens": 2000},
        "run": {"seed": seed, "concurrency": concurrency, "attempts": 3},
        "gates": None,
        **fields,
    }


def demonstrations_fields(url: str, samples: int, concurrency: int, seed: int = 0, **fields: Any) -> dict[str, Any]:
    """Returns settings of so many demonstrations of the philosophy spec."""
    given = documents_fields(url, 20, concurrency, seed, **fields)
    del given["text"]
    return {**given, "kind": "demonstrations", "plan": {"samples": samples}, "identity": {"samples": 20}}


def totals(url: str) -> dict[str, int]:
    """Returns the counts of a server."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/totals", timeout=60) as response:
        found: dict[str, int] = json.load(response)
        return found


@dataclass
class Audit:
    """What files, journal and log say of a finished run.

    Attributes:
        planned, written: documents.
        dropped: how many have each reason.
        repeated: replies that the server gave again because the first one did not reach the client's disk.
        problems: a line for each claim that does not hold.
    """

    planned: int
    written: int
    dropped: Counter[str]
    repeated: int = 0
    problems: list[str] = field(default_factory=list)


def audit(run: Run, entries: list[log.Entry]) -> Audit:
    """Holds a finished run of documents to its plan: each is written once or listed, and no reply asked for twice."""
    result = json.loads((run.workdir / pipeline.RESULT).read_text())
    rows = [json.loads(line)["meta"]["id"] for line in (run.workdir / "documents.jsonl").open()]
    lost = [json.loads(line) for line in (run.workdir / pipeline.DROPPED).open()]
    without = [row["id"] for row in lost if row["meta"]]
    found = Audit(result["planned"], len(rows), Counter(row["reason"] for row in lost))
    if len(rows) + len(without) != result["planned"] or len({*rows, *without}) != result["planned"]:
        found.problems.append(f"{result['planned']} planned, {len(set(rows))} written, {len(set(without))} listed")
    served = Counter((each.prompt_sha256, each.seed) for each in entries if each.status == 200)
    found.repeated = sum(count - 1 for count in served.values())
    journal = run.answered()
    if again := [each for each in entries if each.began > journal.get((each.prompt_sha256, each.seed), math.inf)]:
        found.problems.append(f"{len(again)} replies that were on disk were asked for again")
    if missing := set(served) - set(journal):
        found.problems.append(f"{len(missing)} replies were served and are not in the journal")
    return found


@dataclass(frozen=True)
class Sample:
    """A moment of a client: seconds since the start, replies served so far, resident memory in MB."""

    seconds: float
    replies: int
    rss: float


def watch(client: subprocess.Popen[bytes], url: str, every: float) -> Iterator[Sample]:
    """Yields samples until the client ends."""
    began = time.monotonic()
    while client.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{client.pid}/status").read_text()
            if "VmRSS" in status:
                rss = int(status.split("VmRSS:")[1].split()[0]) / 1024
                yield Sample(time.monotonic() - began, totals(url)["replies"], rss)
        time.sleep(every)


def main() -> None:
    """Measures one part."""
    with tempfile.TemporaryDirectory() as directory:
        {"faults": _faults, "kills": _kills, "throughput": _throughput}[_PART.value](Path(directory))


def _faults(directory: Path) -> None:
    chosen = Settings(faults=faults.everywhere(_SHARE.value), log=str(directory / "log.jsonl"))
    with process.running(chosen) as url:
        run = Run(directory / "run", documents_fields(url, _DOCUMENTS.value, 100))
        client = run.start()
        samples = list(watch(client, url, 0.5))
        if client.wait():
            raise WorkError((run.directory / "client.log").read_text(errors="replace")[-500:])
    entries = log.read(Path(str(chosen.log)))
    found = audit(run, entries)
    counts = (1_000, _DOCUMENTS.value)
    at = {count: next((s.rss for s in samples if s.replies >= count), samples[-1].rss) for count in counts}
    met = Counter(each.fault for each in entries if each.fault)
    record.publish(record.Result(
        title="Documents against a server with faults",
        about=f"A plan of {found.planned:,} documents; each of {len(met)} kinds of faults in {_SHARE.value:.0%} of the "
        "prompts that it fits.",
        columns=("", "value"),
        rows=(
            ("documents planned, written, listed as dropped",
             f"{found.planned:,}, {found.written:,}, {sum(found.dropped.values()):,}"),
            ("reasons", ", ".join(f"{name} {count}" for name, count in found.dropped.most_common())),
            ("requests, of these with a fault", f"{len(entries):,}, {sum(met.values()):,}"),
            ("replies that came too late for the client and were asked for again", str(found.repeated)),
            ("seconds", f"{samples[-1].seconds:.0f}"),
            ("memory after 1,000 replies, after all documents, most (MB)",
             f"{at[1_000]:.0f}, {at[_DOCUMENTS.value]:.0f}, {max(s.rss for s in samples):.0f}"),
            ("problems", "; ".join(found.problems) or "none"),
        ),
    ))  # fmt: skip
    if found.problems:
        raise WorkError("; ".join(found.problems))


@dataclass(frozen=True)
class Killed:
    """A run that was killed: its kills, the calls made twice (the first reply was lost), and what does not hold."""

    kills: int
    repeated: int
    problems: tuple[str, ...]


def kill_at_random(
    run: Run, kills: int, url: str, log_path: Path, whole: dict[str, bytes], total: int, draw: random.Random
) -> Killed:
    """Kills a run at random moments, finishes it, and compares its files with those of a run without kills.

    Args:
        run: has not begun.
        kills: how often it is killed; fewer where it comes to its end before.
        url: of a server that has answered nothing of this run.
        log_path: of that server.
        whole: the files of a run without kills.
        total: the replies that it takes.
        draw: of the moments.
    """
    problems: list[str] = []
    moments: list[tuple[float, int]] = []
    for left in range(kills, 0, -1):
        done = moments[-1][1] if moments else 0
        client, served = run.start(), totals(url)["replies"]
        # The kills share what is left of the run, so that the last ones meet a run that is still going.
        wait = draw.randrange(max(2, 2 * (total - done) // (left + 1)))
        while client.poll() is None and totals(url)["replies"] < served + wait:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.2)
        client.send_signal(signal.SIGKILL)
        if client.wait() == 0:
            break
        moments.append((time.time(), len(run.answered())))
    run.finish()
    files = run.files()
    if differing := [name for name in whole if files.get(name) != whole[name]]:
        problems.append(f"{', '.join(differing)} differ from those of a run without kills")
    entries = log.read(log_path)
    journal = run.answered()
    if again := sum(each.began > journal.get((each.prompt_sha256, each.seed), math.inf) for each in entries):
        problems.append(f"{again} replies that were on disk were asked for again")
    served_calls = Counter((each.prompt_sha256, each.seed) for each in entries if each.status == 200)
    repeated = sum(count - 1 for count in served_calls.values())
    if repeated > len(moments) * run.fields["run"]["concurrency"]:
        problems.append(f"{repeated} calls were repeated, more than were in flight at {len(moments)} kills")
    return Killed(len(moments), repeated, tuple(problems))


def _kills(directory: Path) -> None:
    plans, draw = 5, random.Random(0)
    killed, rows = [], []
    for number in range(plans):
        documents = min(_DOCUMENTS.value, 300)
        kind = "demonstrations" if number % 2 else "documents"
        chosen = faults.everywhere(_SHARE.value)

        def fields(url: str, kind: str = kind, number: int = number, documents: int = documents) -> dict[str, Any]:
            if kind == "demonstrations":
                return demonstrations_fields(url, documents, 20, number)
            return documents_fields(url, documents, 20, number)

        with process.running(Settings(number, 0.1, chosen)) as url:
            plain = Run(directory / f"plain{number}", fields(url))
            plain.finish()
            total = totals(url)["replies"]
        path = directory / f"log{number}.jsonl"
        with process.running(Settings(number, 0.1, chosen, str(path))) as url:
            run = Run(directory / f"killed{number}", fields(url))
            killed.append(kill_at_random(run, _KILLS.value // plans, url, path, plain.files(), total, draw))
        rows.append((
            f"{kind}, seed {number}", f"{total:,}", str(killed[-1].kills), str(killed[-1].repeated),
            "; ".join(killed[-1].problems) or "none",
        ))  # fmt: skip
    record.publish(record.Result(
        title="Generation that is killed",
        about=f"kill -9 at {sum(each.kills for each in killed)} random moments, against a server with all faults in "
        f"{_SHARE.value:.0%} of the prompts each; then the files are compared with those of runs without kills.",
        columns=("run", "replies", "kills", "calls made twice", "problems"),
        rows=tuple(rows),
    ))  # fmt: skip
    if any(each.problems for each in killed):
        raise WorkError("; ".join(problem for each in killed for problem in each.problems))


@dataclass(frozen=True)
class Flow:
    """How calls were made while there was enough to ask: the share of the time with enough in flight, the time over
    that in which the server could have given so many replies, the cores that the client used, and the replies."""

    full: float
    over: float
    cores: float
    replies: int


def flow(run: Run, log_path: Path, latency: float, calls: int) -> Flow:
    """Runs to the end and measures, from the first moment with so many calls in flight to the last request."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    run.finish()
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    entries, concurrency = log.read(log_path), run.fields["run"]["concurrency"]
    since = log.first_in_flight(entries, calls)
    until = max(each.began for each in entries)
    inside = sum(since <= each.written <= until for each in entries)
    full = log.share_in_flight(entries, calls, since, until)
    return Flow(full, (until - since) / (inside * latency / concurrency), used / wall, inside)


def _throughput(directory: Path) -> None:
    latency, calls, path = _LATENCY.value, _CALLS.value, directory / "log.jsonl"
    with process.running(Settings(latency=latency, log=str(path))) as url:
        # Between a reply and the next request lie some milliseconds; a few calls more than asked for fill them.
        concurrency = math.ceil(1.05 * calls)
        fields = documents_fields(url, _DOCUMENTS.value, concurrency)
        fields["writer"]["options"] = {"attempt_timeout": 10 * max(1, int(latency))}
        found = flow(Run(directory / "run", fields), path, latency, calls)
    record.publish(record.Result(
        title="Calls in flight",
        about=f"A server that answers each call after {latency:g} s, and run.concurrency = {concurrency}.",
        columns=("", "value"),
        rows=(
            (f"share of the time with at least {calls} calls in flight", f"{found.full:.1%}"),
            ("time over that of the server alone", f"{found.over - 1:+.1%}"),
            ("cores that the client used, start-up included", f"{found.cores:.2f}"),
            ("replies in that time", f"{found.replies:,}"),
        ),
        notes="Measured from the first moment with all calls in flight to the start of the last request.",
    ))  # fmt: skip
    if found.full < 0.95 or found.over > 1.05 or found.cores > 0.5:
        raise WorkError("the calls in flight, the time or the cores miss their targets: 95 %, 5 % and half a core")


if __name__ == "__main__":
    cli.run(main)
