"""Generates documents from a Model Spec.

    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md --workdir=DIR
    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md --preview

Writes DIR/documents.jsonl, a line for each document that says where it came from; the files of the control corpora;
dropped.jsonl and coverage.json. Every reply is kept in DIR/journal.sqlite as soon as it arrives. Running it again
continues; no reply is asked for twice. --preview prints calls, tokens, price and time of each stage, and calls nothing.
"""

import logging
from pathlib import Path

from absl import flags

from msm_jax import cli
from msm_jax.analysis import terminal
from msm_jax.errors import InputError
from msm_jax.experiments import lock
from msm_jax.foundation import settings, storage
from msm_jax.synthesis import pipeline, preview
from msm_jax.synthesis.config import DocumentsConfig

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()
_PREVIEW = flags.DEFINE_bool("preview", False, "Print the plan with its cost and time; call nothing.")

_log = logging.getLogger(__name__)


def main() -> None:
    """Refuses what is wrong before the first call, then generates, or prints the plan."""
    config = settings.build(DocumentsConfig, cli.require(_CONFIG))
    if _PREVIEW.value:
        terminal.console().print(preview.table(config, pipeline.read_spec(config)))
        return
    workdir = Path(cli.require(_WORKDIR))
    if storage.is_url(cli.require(_WORKDIR)):
        raise InputError(f"--workdir={_WORKDIR.value}: the journal needs a local disk; give a local directory")
    pipeline.read_spec(config)
    with storage.writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with lock.hold(workdir):
        result = pipeline.run(config, workdir, workdir / pipeline.JOURNAL, lambda progress: _log.info("%s", progress))
    for corpus, count in result["written"].items():
        _log.info("%s: %d of %d documents", workdir / f"{corpus}.jsonl", count, result["planned"])
    if result["dropped"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(result["dropped"].items()))
        _log.info("%s: %s", workdir / pipeline.DROPPED, reasons)


if __name__ == "__main__":
    cli.run(main)
