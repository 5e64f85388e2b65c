"""Runs the quality gates over documents or demonstrations of any origin.

    python -m msm_jax.quality --config=configs/synthesis/quality.py:CORPUS.jsonl --workdir=DIR

Writes quality.json and quality.html, the rows that passed (kept.jsonl), and the others with their reasons
(dropped.jsonl). The exit status is 1 if the corpus as a whole must not be used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msm_jax import cli
from msm_jax.analysis import quality_page
from msm_jax.checkpoints import workdirs
from msm_jax.data import sources
from msm_jax.errors import WorkError
from msm_jax.foundation import mirror, settings, storage
from msm_jax.sampling.checkpoint_model import CheckpointModel
from msm_jax.sampling.engine import Engine
from msm_jax.specs import prose
from msm_jax.synthesis.quality.check import check
from msm_jax.synthesis.quality.config import Context, Kind, QualityConfig, Reader

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()


@dataclass(frozen=True)
class AuditConfig:
    """What is checked, and what it is about.

    Attributes:
        data: data path of the corpus.
        kind: documents or demonstrations.
        assistant: the name of the assistant that the corpus is about.
        provider: the name of its maker.
        spec: the file of its spec; "" if there is none.
        variables: {name: value} of the variables of the spec, beside the two names.
        checkpoint: the base model whose perplexity is measured; "" for none.
        gates: settings of the gates.
    """

    data: str
    kind: Kind
    assistant: str = ""
    provider: str = ""
    spec: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str = ""
    gates: QualityConfig = field(default_factory=QualityConfig)


def main() -> None:
    """Checks the corpus that the flags name.

    Raises:
        InputError: the config, the corpus or the spec is wrong.
        WorkError: the corpus must not be used, or a file cannot be written.
    """
    config = settings.build(AuditConfig, cli.require(_CONFIG))
    with workdirs.opened(cli.require(_WORKDIR)) as workdir:
        _check(config, workdir)


def _check(config: AuditConfig, workdir: Path) -> None:
    quality = check(_records(config), config.gates, _context(config))
    quality_page.write(quality.report, workdir)
    kept: list[str] = []
    dropped: list[str] = []
    for record, reasons in zip(_records(config), quality.verdicts, strict=True):
        line = {**record, "meta": {**record["meta"], "reasons": reasons}} if reasons else record
        (dropped if reasons else kept).append(json.dumps(line, ensure_ascii=False) + "\n")
    storage.write_text(workdir / "kept.jsonl", "".join(kept))
    storage.write_text(workdir / "dropped.jsonl", "".join(dropped))
    page = mirror.named(workdir / "quality.html")
    print(f"{len(kept)} of {len(quality.verdicts)} rows passed; {page}")
    if quality.stopped:
        raise WorkError(f"{config.data}: stopped: {'; '.join(quality.stopped)}; see {page}")


def _records(config: AuditConfig) -> Iterator[Mapping[str, Any]]:
    """Yields the rows as the gates read them; a row is refused as training would refuse it."""
    if config.kind == "documents":
        for document in sources.iter_documents(config.data):
            yield {"text": document.text, "meta": dict(document.meta)}
    else:
        for chat in sources.iter_chats(config.data):
            yield {
                "messages": list(chat.messages),
                "meta": dict(chat.meta),
                **({"tools": chat.tools} if chat.tools else {}),
            }


def _context(config: AuditConfig) -> Context:
    ids, text = None, ""
    if config.spec:
        names = {"assistant": config.assistant, "provider": config.provider}
        spec = prose.read(config.spec, {**names, **config.variables})
        ids, text = frozenset(principle.id for principle in spec.principles), spec.text
    reader = None
    if config.checkpoint:
        engine = Engine.from_checkpoint(config.checkpoint)
        reader = Reader(CheckpointModel(engine, config.checkpoint), engine.tokenizer)
    name = Path(config.data).name
    return Context(config.kind, name, config.assistant, config.provider, text, ids, reader=reader)


if __name__ == "__main__":
    cli.run(main)
