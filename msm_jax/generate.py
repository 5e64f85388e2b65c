"""Generates documents, demonstrations or preference pairs from a Model Spec.

    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md --workdir=DIR
    python -m msm_jax.generate --config=configs/synthesis/demonstrations.py:SPEC.md --workdir=DIR
    python -m msm_jax.generate --config=configs/synthesis/pairs.py:SPEC.md --workdir=DIR
    python -m msm_jax.generate --config=configs/synthesis/documents.py:SPEC.md --preview

Writes DIR/documents.jsonl, a line for each document that says where it came from; the files of the control corpora;
dropped.jsonl and coverage.json. Of demonstrations it writes DIR/demonstrations.jsonl, the same without thinking,
identity.jsonl and dropped.jsonl; of pairs DIR/pairs.jsonl and dropped.jsonl. Every reply is kept in DIR/journal.sqlite
as soon as it arrives. Running it again continues; no reply is asked for twice. --preview prints calls, tokens, price
and time of each stage, and calls nothing.
"""

import logging

from absl import flags

from msm_jax import cli
from msm_jax.analysis import terminal
from msm_jax.checkpoints import workdirs
from msm_jax.foundation import storage
from msm_jax.synthesis import gating, generation, pipeline, tables

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()
_PREVIEW = flags.DEFINE_bool("preview", False, "Print the plan with its cost and time; call nothing.")

_log = logging.getLogger("msm_jax.generate")  # as __main__, its progress would not be shown


def main() -> None:
    """Refuses what is wrong before the first call, then generates, or prints the plan."""
    kind, config = generation.build(cli.require(_CONFIG))
    spec = pipeline.read_spec(config.spec)
    if _PREVIEW.value:
        terminal.console().print(kind.preview(config, spec))
        return
    with workdirs.opened(cli.require(_WORKDIR)) as workdir:
        if not (workdir / pipeline.RESULT).exists():
            pipeline.check_writers(config.writers)
        journal = workdir / pipeline.JOURNAL
        result = kind.run(config, workdir, journal, lambda progress: _log.info("%s", progress), 10.0, ())
        if pipeline.COVERAGE in result["files"]:
            terminal.console().print(tables.coverage(storage.read_json(workdir / pipeline.COVERAGE)))
    for name, count in {**result["written"], **result.get("kept", {})}.items():
        _log.info("%s: %d rows, %d planned", workdir / f"{name}.jsonl", count, result["planned"])
    for counts, file in ((result["dropped"], pipeline.DROPPED), (result.get("flagged", {}), gating.FLAGGED)):
        if counts:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            _log.info("%s: %s", workdir / file, reasons)


if __name__ == "__main__":
    cli.run(main)
