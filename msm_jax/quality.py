"""Runs the quality gates over documents or demonstrations of any origin.

    python -m msm_jax.quality --config=configs/synthesis/quality.py:CORPUS.jsonl --workdir=DIR

Writes quality.json and quality.html, the rows that passed (kept.jsonl), and the others with their reasons
(dropped.jsonl). The exit status is 1 if the corpus as a whole must not be used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_jax import cli
from msm_jax.analysis import quality_page
from msm_jax.data import sources
from msm_jax.errors import WorkError
from msm_jax.foundation import settings, storage
from msm_jax.sampling.checkpoint_model import CheckpointModel
from msm_jax.sampling.engine import Sampler
from msm_jax.specs import structure
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
        checkpoint: the base model whose perplexity is measured; "" for none.
        gates: settings of the gates.
    """

    data: str
    kind: Kind
    assistant: str = ""
    provider: str = ""
    spec: str = ""
    checkpoint: str = ""
    gates: QualityConfig = QualityConfig()


def main() -> None:
    """Checks the corpus that the flags name.

    Raises:
        InputError: the config, the corpus or the spec is wrong.
        WorkError: the corpus must not be used, or a file cannot be written.
    """
    config = settings.build(AuditConfig, cli.require(_CONFIG))
    workdir = Path(cli.require(_WORKDIR))
    quality = check(_records(config), config.gates, _context(config))
    quality_page.write(quality.report, workdir)
    kept, dropped = [], []
    for record, reasons in zip(_records(config), quality.verdicts, strict=True):
        line = record if not reasons else record | {"meta": {**(record.get("meta") or {}), "reasons": reasons}}
        (dropped if reasons else kept).append(json.dumps(line, ensure_ascii=False) + "\n")
    storage.write_text(workdir / "kept.jsonl", "".join(kept))
    storage.write_text(workdir / "dropped.jsonl", "".join(dropped))
    print(f"{len(kept)} of {len(quality.verdicts)} rows passed; {workdir / 'quality.html'}")
    if quality.stopped:
        raise WorkError(f"{config.data}: stopped: {'; '.join(quality.stopped)}; see {workdir / 'quality.html'}")
