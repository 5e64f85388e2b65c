"""Makes questions from a spec with a writer, and audits them: items for the evals `open_qa` and `knowledge_recall`.

    python -m msm_jax.questions --config=configs/evals/questions.py:SPEC.md --workdir=DIR

Writes DIR/open_qa.jsonl, DIR/recall.jsonl, DIR/dropped.jsonl (with the reason of each) and DIR/result.json.
DIR/replies.sqlite keeps every reply of the writer, so that a run which was stopped goes on where it was.
"""

from __future__ import annotations

import asyncio
import collections
from pathlib import Path

from msm_jax import cli
from msm_jax.checkpoints import workdirs
from msm_jax.evals import questions
from msm_jax.evals.questions import QuestionsConfig, Written
from msm_jax.experiments import replies
from msm_jax.foundation import mirror, settings, storage
from msm_jax.specs.prose import Prose

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()


def main() -> None:
    """Makes the items that the flags ask for.

    Raises:
        InputError: the settings, the spec or the writer cannot be used.
        WorkError: the writer failed for good, or nothing that it wrote passed the audit.
    """
    config = settings.build(QuestionsConfig, cli.require(_CONFIG))
    spec = config.read()
    replies.check_pinned(config.writer, "config.writer")
    with workdirs.opened(cli.require(_WORKDIR)) as workdir:
        _write(config, spec, workdir)


def _write(config: QuestionsConfig, spec: Prose, workdir: Path) -> None:
    written = asyncio.run(_written(config, spec, workdir))
    reasons = collections.Counter(each["reason"] for each in written.dropped)
    for name, rows in (("open_qa", written.open_qa), ("recall", written.recall), ("dropped", written.dropped)):
        if rows:
            storage.write_text(workdir / f"{name}.jsonl", storage.json_lines(rows))
    counts = {"open_qa": len(written.open_qa), "recall": len(written.recall), "dropped": dict(reasons)}
    storage.write_json(
        workdir / "result.json", {"config": settings.to_json(config), "spec_sha256": spec.sha256, **counts}
    )
    print(f"{counts['open_qa']} open questions and {counts['recall']} for recall in {mirror.named(workdir)}")
    for reason, count in reasons.items():
        print(f"dropped: {count} {reason}")


async def _written(config: QuestionsConfig, spec: Prose, workdir: Path) -> Written:
    async with replies.pinned(config.writer, workdir / "replies.sqlite", "config.writer") as writer:
        return await questions.write(writer, spec, config)


if __name__ == "__main__":
    cli.run(main)
