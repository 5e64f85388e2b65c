"""Makes the code book of the eval `reasoning` from transcripts of all arms.

    python -m msm_jax.code_book --config=configs/evals/code_book.py:'SAMPLES_OF_ARM,SAMPLES_OF_ARM' --workdir=DIR

Writes DIR/book.jsonl, which a person reads before it is used, DIR/transcripts.jsonl (what was drawn, with the reasons
in the judge's words and the codes), and DIR/result.json (sources, judge, counts). DIR/replies.sqlite keeps every reply
of the judge, so that a run which was stopped goes on where it was.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from rich.table import Table

from msm_jax import cli
from msm_jax.analysis import terminal
from msm_jax.checkpoints import workdirs
from msm_jax.data import sources
from msm_jax.errors import InputError
from msm_jax.evals import code_book
from msm_jax.evals.code_book import CodeBookConfig, Made
from msm_jax.experiments import replies
from msm_jax.foundation import mirror, settings

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()


def main() -> None:
    """Makes the code book that the flags ask for.

    Raises:
        InputError: the settings, a file or the judge cannot be used.
        WorkError: the judge failed for good, or its list of codes cannot be read.
    """
    config = settings.build(CodeBookConfig, cli.require(_CONFIG))
    replies.check_pinned(config.judge, "config.judge")
    pooled = code_book.pool(config)
    if not pooled:
        raise InputError("config.transcripts: hold no transcript; name files of samples that are not empty")
    with workdirs.opened(cli.require(_WORKDIR)) as workdir:
        made = asyncio.run(_made(config, pooled, workdir))
        hashes = {path: sources.data_sha256(path) for path in config.transcripts}
        made.write(workdir, {"config": settings.to_json(config), "sources": hashes})
        path = mirror.named(workdir / code_book.FILE)
    console = terminal.console()
    console.print(_table(made))
    for rate, value in made.rates.items():
        console.print(f"{rate} {value:.3f}")
    console.print(f"read {path} before it is used: evals.NAME.path of kind reasoning", soft_wrap=True)


async def _made(config: CodeBookConfig, pooled: list[dict[str, Any]], workdir: Path) -> Made:
    async with replies.pinned(config.judge, workdir / "replies.sqlite", "config.judge") as judge:
        return await code_book.make(judge, pooled, config)


def _table(made: Made) -> Table:
    shown = Table("code", "transcripts", "harmful", "definition", title=f"of {len(made.transcripts)} transcripts")
    for code in made.book:
        shown.add_row(code.id, str(made.counts[code.id]), "yes" if code.harmful else "", code.definition)
    return shown


if __name__ == "__main__":
    cli.run(main)
