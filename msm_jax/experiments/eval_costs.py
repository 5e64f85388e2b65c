"""What the evals of an experiment that let the model write will take: replies, their time, and the judge's tokens.

The time is a bound, that of the decode step by `planning.bounds`. How long replies are is not known before there are
any, so their lengths below are assumptions, which the lines name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from msm_jax.errors import InputError
from msm_jax.evals import kinds
from msm_jax.evals.interface import EvalConfig
from msm_jax.experiments.config import ExperimentConfig, book_of
from msm_jax.experiments.context import Context
from msm_jax.experiments.graph import CodeBook
from msm_jax.experiments.live import duration

# Tokens of a reply, where the eval allows so many, and of what a judge writes: assumptions.
REPLY = 1_000
VERDICT = 500
# Tokens of a prompt, and of what a judge reads beside the reply, by kind: for the grid the means of its 27 cells,
# counted with the tokenizer of all-MiniLM-L6-v2 (exfiltration 616 and 164, murder 2,914 and 333, leaking 2,658 and
# 460).
PROMPTS = {"agentic_misalignment": (2_060, 320)}
OTHER_PROMPTS = (200, 500)


@dataclasses.dataclass(frozen=True)
class Written:
    """What one eval lets one checkpoint write.

    Attributes:
        replies: their number.
        prompt: the tokens of a prompt.
        tokens: the tokens of a reply, by assumption.
        most: the most tokens of a reply.
        read: the tokens that the judge reads for all replies; 0 without a judge.
        judged: the tokens that the judge writes for all replies.
    """

    replies: int
    prompt: int
    tokens: int
    most: int
    read: int = 0
    judged: int = 0


def items(config: EvalConfig) -> int:
    """Returns the number of items of an eval; those of a grid are counted without its scenarios.

    Raises:
        InputError: the file of its items cannot be used.
    """
    if hasattr(config, "source"):
        # Each transcript of another eval is an item.
        return items(config.source()[1])
    number = cells(config)
    return number * int(getattr(config, "samples", 1)) if number else kinds.check(config)


def cells(config: EvalConfig) -> int:
    """Returns the number of cells of an eval that samples the cells of a grid; 0 for another eval."""
    return len(getattr(config, "actions", ())) * len(getattr(config, "goals", ()))


def clusters(config: EvalConfig) -> int:
    """Returns the number of clusters that the kind of an eval gives its items; 0 where it gives none.

    Raises:
        InputError: the file of its items cannot be used.
    """
    if hasattr(config, "source"):
        of = config.source()[1]
        return cells(of) or clusters(of) or kinds.check(of)
    if cells(config):
        return 0
    read = kinds.find(config.kind, "kind").read(config)
    return len({getattr(item, "cluster", getattr(item, "dimension", None)) for item in read} - {None})


def written(config: EvalConfig) -> Written | None:
    """Returns what an eval lets one checkpoint write; None for a kind that lets it write nothing.

    Raises:
        InputError: the file of its items cannot be used.
    """
    judge: Any = getattr(config, "judge", None)
    if hasattr(config, "source"):
        # It reads the transcripts of another eval.
        of = written(config.source()[1])
        votes = of.replies * judge.votes if of and judge else 0
        return Written(0, 0, 0, 0, votes * (OTHER_PROMPTS[1] + REPLY), votes * VERDICT)
    most: Any = getattr(config, "max_tokens", getattr(config, "max_new_tokens", 0))
    if not most:
        return None
    replies = items(config)
    if not hasattr(config, "actions"):
        # An item of a grid is a sample; elsewhere an item has several.
        replies *= int(getattr(config, "samples", 1))
    prompt, question = PROMPTS.get(config.kind, OTHER_PROMPTS)
    tokens = min(most, REPLY)
    votes = replies * judge.votes if judge else 0
    return Written(replies, prompt, tokens, most, votes * (question + tokens), votes * VERDICT)


def seconds(asked: Written, config: ExperimentConfig) -> float:
    """Returns the least seconds that the replies of one checkpoint take on the accelerators of an experiment."""
    if not asked.replies:
        return 0.0
    from msm_jax.models.presets import preset
    from msm_jax.planning import bounds, chips
    from msm_jax.planning.programs import DecodeProgram

    rows = min(config.scoring.batch, asked.replies)
    program = DecodeProgram(preset(config.model), rows, asked.prompt + asked.tokens // 2)
    step = bounds.bound(program, config.scoring.mesh, chips.NAMED[config.accelerator])
    return asked.replies * asked.tokens / rows * step.seconds


def lines(context: Context) -> Iterator[str]:
    """Yields a line on each eval that lets the model write, for all checkpoints that it measures."""
    from msm_jax.experiments.nodes import evals

    config = context.config
    for name, fields in config.evals.items():
        checkpoints = sum(name in each.evals for each in context.graph.measurements.values())
        path = kinds.path_of(fields)
        if not checkpoints or not (book_of(config, name) or _is_there(path, context)):
            continue
        asked = written(evals.config_of(name, path, context))
        if asked is None:
            continue
        told = [f"{checkpoints} checkpoints"]
        if asked.replies:
            replies = checkpoints * asked.replies
            told[0] += f" × {asked.replies:,}"
            each = f"{tokens_text(replies * asked.tokens)} at {asked.tokens:,} each (assumed)"
            told.append(f"{each}, at most {tokens_text(replies * asked.most)}")
        if asked.replies and config.accelerator and config.model:
            where = f"{config.scoring.mesh.size} {config.accelerator}, {config.scoring.batch} side by side"
            told.append(f"at least {duration(checkpoints * seconds(asked, config))} on {where}")
        if asked.judged:
            told.append(_of_judge(checkpoints * asked.read, checkpoints * asked.judged))
        yield f"replies: {name}: {'; '.join(told)}"
    for book in context.graph.code_books:
        yield f"replies: code book {book.name}: {_of_judge(*of_code_book(book, context))}"


def _of_judge(read: int, written: int) -> str:
    return f"the judge reads {tokens_text(read)} and writes {tokens_text(written)}"


def of_code_book(book: CodeBook, context: Context) -> tuple[int, int]:
    """Returns the tokens that the judge of a code book reads and writes, without those of merging, which are few.

    Each transcript that is drawn is read once for its reasons, and by each vote that classifies it.
    """
    from msm_jax.experiments.nodes import evals

    spec = context.config.code_books[book.name]
    fields = context.config.evals[spec.eval]
    asked = written(evals.config_of(spec.eval, kinds.path_of(fields), context))
    count = asked.replies if asked else 0
    drawn = sum(min(spec.sample, count * len(runs)) for runs in book.sources)
    times = drawn * (1 + spec.judge.votes)
    return times * (OTHER_PROMPTS[1] + REPLY), times * VERDICT


def _is_there(path: str, context: Context) -> bool:
    try:
        return bool(path) and not context.awaits(path) and bool(context.resolve(path))
    except InputError:  # `dry_run` itself says that the file is missing
        return False


def tokens_text(count: float) -> str:
    """Returns a number of tokens in words, "8.1M tokens"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit} tokens"
    return f"{count:.0f} tokens"
