"""Runs the evals of a config on one checkpoint.

    python -m msm_jax.evaluate --config=configs/evals/preferences.py --checkpoint=RUN --workdir=DIR

Writes DIR/report.html, which shows all of this, and DIR/report.json, its numbers; DIR/results/EVAL.json (mean and 95 %
interval over items of the score and of further measures, every item's values); and DIR/samples/EVAL.jsonl (what was
asked and answered). DIR/replies.sqlite keeps every reply as it comes, so that a run which was killed goes on where it
stopped. DIR/plots/EVAL.png shows an eval that is a grid, and `inspect view --log-dir DIR/inspect` opens every
transcript (logs are written where Inspect is installed). Running it again reuses a result unless something that it
depends on has changed: the eval's settings, its item file, the checkpoint, how the model is run, or the code that
scores.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.markup import escape
from rich.table import Table

from msm_jax import cli
from msm_jax.analysis import heat_map, report, terminal
from msm_jax.analysis.dependence import Labels
from msm_jax.analysis.findings import Findings
from msm_jax.analysis.statistics import interval95
from msm_jax.checkpoints import compose, integrity, store, workdirs
from msm_jax.data import sources
from msm_jax.evals import kinds, labels
from msm_jax.evals.config import EvaluateConfig
from msm_jax.evals.interface import MEASURES, EvalConfig, EvalResult
from msm_jax.experiments import inspect_logs, of_checkpoint, reason_rates, replies
from msm_jax.experiments.nodes import evals as evals_node
from msm_jax.experiments.nodes.interface import Address
from msm_jax.foundation import hashing, mirror, settings, storage
from msm_jax.models import transformer
from msm_jax.sampling.checkpoint_model import CheckpointModel
from msm_jax.sampling.engine import Engine

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A checkpoint, or a run directory for its newest one.")
_ADAPTER = flags.DEFINE_string("adapter", "", "An adapter on that checkpoint: a run of ours or a PEFT directory.")

_log = logging.getLogger(__name__)


def main() -> None:
    """Refuses what is wrong before the model is loaded, then runs the evals that have no result yet."""
    with workdirs.opened(cli.require(_WORKDIR)) as workdir:
        _evaluate(workdir)


def _evaluate(workdir: Path) -> None:
    config = settings.build(EvaluateConfig, cli.require(_CONFIG))
    evals = {name: kinds.build(fields, f"config.evals.{name}") for name, fields in config.evals.items()}
    checkpoint = store.resolve(cli.require(_CHECKPOINT))
    shown = mirror.named(checkpoint)
    for name, each in evals.items():
        kinds.check(each)
        replies.check(each, f"config.evals.{name}")
    origin = checkpoint_digest(checkpoint)
    if _ADAPTER.value:
        origin += checkpoint_digest(compose.directory_of(_ADAPTER.value))
    scoring = settings.to_json({name: getattr(config, name) for name in ("batch", "threads", "chat_variables")})
    addresses = {}
    for name, each in evals.items():
        code = evals_node.sources_of(each.kind)
        payload = evals_node.payload_of(each, sources.data_sha256(",".join(kinds.files(each))), origin, scoring, code)
        addresses[name] = Address(f"evaluate/{name}", payload, workdir / "results" / f"{name}.json")
    stored = {
        name: storage.read_json(address.path) if evals_node.is_done(address) else None
        for name, address in addresses.items()
    }
    if not all(stored.values()):
        cli.prepare_backend(devices=1, threads=config.threads)
        engine = Engine.from_checkpoint(
            checkpoint, slots=config.batch, adapter=_ADAPTER.value, chat_variables=config.chat_variables,
            cache_mib=config.cache_mib,
        )
        model = CheckpointModel(engine, shown)
        for each in evals.values():
            kinds.check_model(model, each)
        identity = hashing.digest([origin, settings.to_json(config.chat_variables), evals_node.sampler()])
    rows = []
    for name, each in evals.items():
        found = stored[name]
        if found is None:
            _log.info("eval %s: %s", name, each.path)
            result = replies.run(model, each, workdir / "replies.sqlite", identity)
            found = write(addresses[name], each, workdir / "samples" / f"{name}.jsonl", result)
        rows.append((name, found, stored[name] is not None))
    terminal.console().print(table(" with ".join(filter(None, [shown, _ADAPTER.value])), rows))
    for name, found, reused in rows:
        write_log(workdir, name, evals[name], found, shown, rewrite=not reused)
        grid = heat_map.cells(found["items"])
        if grid:
            terminal.console().print(heat_map.table(f"{name}: mean score (items) of each cell", grid))
            heat_map.write(workdir / "plots" / f"{name}.png", name, grid)
        reasons: reason_rates.Rates = {}
        if any("reasons" in item for item in found["items"]):
            reasons = reason_rates.of_items(found["items"])
            terminal.console().print(reason_rates.table(f"{name}: transcripts with each reason", reasons))
        in_table = {f"gives {reason}" for reason in reasons}
        for rate, value in found["rates"].items():
            if rate not in in_table:
                terminal.console().print(f"{name}: {rate} {value:.3f}")
    findings = write_report(workdir, checkpoint, evals, {name: found for name, found, _ in rows})
    for warning in findings.warnings:
        terminal.console().print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    terminal.console().print(f"report: {mirror.named(workdir / 'report.html')}", soft_wrap=True)


def write_report(
    workdir: Path, checkpoint: Path, evals: Mapping[str, EvalConfig], found: Mapping[str, Mapping[str, Any]]
) -> Findings:
    """Writes report.html, report.json and its plots from the results of all evals, and links to samples and logs."""
    shape = compose.model_config(store.read_info(checkpoint), checkpoint)
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
    name = " with ".join(filter(None, [run.name, Path(_ADAPTER.value).name]))
    whole = {each: {**result, "transcripts": transcripts(workdir, each)} for each, result in found.items()}
    results = of_checkpoint.results(name, evals, whole, transformer.count_params(shape))
    files = {}
    for each in found:
        log = Path("inspect", f"{each}.eval")
        links = {"log": log.as_posix()} if (workdir / log).exists() else {}
        files[each] = [{"seed": "shared", "samples": f"samples/{each}.jsonl", **links}]
    return report.write({**results, "files": {name: files}}, workdir)


def transcripts(workdir: Path, name: str) -> list[dict[str, Any]]:
    """Returns what `samples/EVAL.jsonl` holds of an eval in which something was generated; nothing for another eval."""
    lines = (workdir / "samples" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return found if found and "reply" in found[0] else []


def checkpoint_digest(checkpoint: Path) -> str:
    """Returns the SHA-256 of a checkpoint's manifest, or without one over the names, sizes and times of its files.

    They are written once, and reading the weights of a large model twice would take longer than many evals.
    """
    manifest = checkpoint / integrity.NAME
    if manifest.is_file():
        return hashing.file_sha256(manifest)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    stats = [(path.relative_to(checkpoint).as_posix(), path.stat()) for path in files]
    return hashing.digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def write(address: Address, config: EvalConfig, samples: Path, result: EvalResult) -> dict[str, Any]:
    """Writes the file of samples, then that of the result, each whole or not at all; returns what the latter holds.

    Raises:
        WorkError: a file cannot be written.
    """
    fields = result.to_json()
    storage.write_text(samples, evals_node.samples(fields))
    del fields["transcripts"]
    shared = tuple(labels.of_scored(result.items, config.path) or ())
    found = {"ci95": interval(result, "score", shared), "measures": measures(result, shared)}
    return evals_node.write(address, {**found, **fields})


def write_log(
    workdir: Path, name: str, config: EvalConfig, stored: Mapping[str, Any], model: str, rewrite: bool
) -> None:
    """Writes `inspect/EVAL.eval` from the transcripts in `samples/EVAL.jsonl`, unless it is there; see `inspect_logs`.

    Without Inspect it says in a line that there is no log.
    """
    written = transcripts(workdir, name)
    path = workdir / "inspect" / f"{name}.eval"
    if not written or (path.exists() and not rewrite):
        return
    if not inspect_logs.can_write():
        terminal.console().print(f"{name}: {inspect_logs.MISSING_FOR_EVALUATE}", soft_wrap=True)
        return
    made = (workdir / "results" / f"{name}.json").stat().st_mtime
    result = {**stored, "transcripts": written}
    inspect_logs.write(path, name, model, stored["hash"], settings.to_json(config), result, made)


def measures(result: EvalResult, shared: Labels) -> dict[str, dict[str, Any]]:
    """Returns mean and 95 % interval of the measures beside the score that the items have, by `interface.MEASURES`."""
    found = {}
    for measure, field in MEASURES.items():
        values = [item[field] for item in result.items if field in item]
        if values:
            found[measure] = {"mean": statistics.fmean(values), "ci95": interval(result, field, shared)}
    return found


def interval(result: EvalResult, field: str, shared: Labels) -> list[float] | None:
    """Returns the 95 % interval of the mean of a field over items, given what each shares with others; None for items
    without a value."""
    values = np.array([[np.nan if item[field] is None else item[field] for item in result.items]], dtype=np.float64)
    if not np.isfinite(values).any():
        return None
    found = interval95(values, shared, measure="nats" if field == MEASURES["nats"] else "share")
    return [found.low, found.high]


def table(title: str, rows: list[tuple[str, dict[str, Any], bool]]) -> Table:
    """Returns a table with name, mean, interval, probability, margin, number of items and parse rate of each eval."""
    headings = ("eval", "mean", "95 % interval", "probability", "margin, nats", "items", "parsed", "")
    shown = Table(*headings, title=title, title_justify="left")
    for name, found, reused in rows:
        mean = "none parsed" if found["mean"] is None else f"{found['mean']:.3f}"
        ends = "" if found["ci95"] is None else "{:.3f} to {:.3f}".format(*found["ci95"])
        parsed = "" if found["parse_rate"] is None else f"{found['parse_rate']:.1%}"
        further = [
            format(found["measures"][measure]["mean"], form) if measure in found["measures"] else ""
            for measure, form in (("probability", ".3f"), ("nats", "+.2f"))
        ]
        shown.add_row(name, mean, ends, *further, str(found["n_items"]), parsed, "reused" if reused else "")
    return shown


if __name__ == "__main__":
    cli.run(main)
