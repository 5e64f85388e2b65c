"""Prints the batch of any step of a phase as text, with the shares of its sources and the tokens that carry loss.

    python -m msm_jax.show_batch --config=FILE[:ARG] [--step=N] [--rows=N] [--workdir=DIR]

Text that carries loss is green on a terminal, and in [[double brackets]] elsewhere. Nothing is trained. With the
--workdir of a run, its checkpoint and its tokenised data are used; otherwise the data is tokenised first. A pair is
two segments, its chosen and its rejected answer after the prompt.
"""

import itertools
import tempfile
from typing import Any

import numpy as np
import rich.table
import rich.text
from absl import flags

from msm_jax import cli
from msm_jax.analysis import terminal
from msm_jax.checkpoints import workdirs
from msm_jax.data import epochs
from msm_jax.data.loader import Batch, Loader
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.foundation import mirror, settings
from msm_jax.training import origin
from msm_jax.training.config import PhaseConfig

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()
_STEP = flags.DEFINE_integer("step", 0, "The step whose batch is shown; the first is 0.")
_ROWS = flags.DEFINE_integer("rows", 4, "How many rows of the batch are printed.")


def main() -> None:
    """Prints the batch that the flags name.

    Raises:
      InputError: the config, its data or a flag is wrong.
    """
    config = settings.build(PhaseConfig, cli.require(_CONFIG))
    for flag in (_STEP, _ROWS):
        if flag.value < 0:
            raise InputError(f"--{flag.name}={flag.value}: use a number from 0 up")
    with mirror.apart(), tempfile.TemporaryDirectory(prefix="show_batch") as scratch:
        workdir = workdirs.fetched(_WORKDIR.value or scratch)
        start = origin.find(config, workdir)
        loader = Loader(
            config.data, start.tokenizer, start.template, config.batch_rows, config.seed, workdir / "cache"
        )
        console = terminal.console()
        template = f"chat template {start.template.sha256[:12]}" if start.template else "no chat template"
        console.print(
            f"{config.name}, step {_STEP.value} of {config.steps}: {config.batch_rows} rows of "
            f"{config.data.seq_len} slots; tokenizer {start.tokenizer.sha256[:12]}, {template}"
        )
        for notice in start.notices:
            console.print(rich.text.Text(notice, style="bold red"))
        console.print(_shares(loader.describe(_STEP.value)))
        console.print(f"{config.steps:,} steps read {epochs.summary(loader, config.steps)}", soft_wrap=True)
        for told in epochs.left_out(loader):
            console.print(told, soft_wrap=True)
        for told in epochs.departures(loader, config.data, config.steps):
            console.print(rich.text.Text(told, style="bold red"), soft_wrap=True)
        for line in rows_as_text(loader, start.tokenizer, _STEP.value, _ROWS.value, console.is_terminal):
            console.print(line, soft_wrap=True)


def rows_as_text(
    loader: Loader, tokenizer: Tokenizer, step: int, rows: int, coloured: bool
) -> list[rich.text.Text]:
    """Returns the first `rows` rows of a batch: a heading for each row, then each segment under its "file:line"."""
    batch = loader.batch(step)
    out = []
    for row, names in enumerate(loader.segments_of(step)[:rows]):
        filled = int((batch.segment_ids[row] > 0).sum())
        source = loader.source_names[batch.source_ids[row]]
        heading = f"\nrow {row}: {source}, {len(names)} segments, {filled} of {batch.tokens.shape[1]} slots"
        out.append(rich.text.Text(heading, style="bold"))
        for number, name in enumerate(names, 1):
            answer = (" (rejected)", " (chosen)")[number % 2] if source in loader.paired else ""
            out.append(rich.text.Text(f"  {number}. {name}{answer}", style="dim"))
            out.append(_segment(batch, tokenizer, row, number, coloured))
    return out


def _segment(batch: Batch, tokenizer: Tokenizer, row: int, number: int, coloured: bool) -> rich.text.Text:
    slots = np.flatnonzero(batch.segment_ids[row] == number)
    ids = [int(batch.tokens[row, slots[0]]), *batch.targets[row, slots].tolist()]
    loss = [False, *batch.loss_mask[row, slots].tolist()]
    text = rich.text.Text()
    controls = set(tokenizer.specials.values())
    # Decoding drops the space at the start of a text, but not in a row that begins within a document.
    continues = True
    for carries, run in itertools.groupby(zip(ids, loss, strict=True), key=lambda pair: pair[1]):
        run_ids = [i for i, _ in run]
        part = tokenizer.decode(run_ids, specials=True, continues=continues)
        continues = run_ids[-1] not in controls
        if coloured:
            text.append(part, style="green" if carries else "")
        else:
            text.append(f"[[{part}]]" if carries else part)
    return text


def _shares(described: dict[str, Any]) -> rich.table.Table:
    table = rich.table.Table(title=f"{described['fill']:.1%} of the slots are filled", title_justify="left")
    for heading in (
        *("source", "rows", "of rows", "of tokens", "of loss", "epochs", "rows/epoch"),
        *("documents", "held out", "fill"),
    ):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for name, s in described["sources"].items():
        table.add_row(
            *(name, str(s["rows"]), f"{s['row_share']:.1%}", f"{s['token_share']:.1%}"),
            *(f"{s['loss_token_share']:.1%}", f"{s['epochs']:.3f}", str(s["rows_per_epoch"])),
            *(str(s["documents"]), str(s["held_out_documents"]), f"{s['fill']:.1%}"),
        )
    return table


if __name__ == "__main__":
    cli.run(main)
