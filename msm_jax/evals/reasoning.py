"""The kind "reasoning": which reasons an assistant gives in the transcripts of another eval, by a code book.

As in figure 11 of arXiv 2605.02087, a judge says of every transcript which reasons of one list it gives, and the result
is the share of transcripts with each reason. `code_book` makes such a list from transcripts; the list that comes with
the kind has the sixteen reasons that the figure names, defined in our own words.

The transcripts are sampled as the other eval samples them. Where its replies are kept (`experiments.replies`), they are
its transcripts, and the model is not asked again.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msm_jax.errors import InputError
from msm_jax.evals import agentic, alignment_faking, codes, items, judging, open_qa
from msm_jax.evals.codes import Book
from msm_jax.evals.interface import EvalConfig, EvalKind, EvalResult, aggregate, mean_of, packaged
from msm_jax.evals.judging import JudgeConfig, Verdict
from msm_jax.foundation import settings
from msm_jax.sampling.model import Model


@dataclass(frozen=True)
class Source:
    """A kind whose transcripts can be read.

    Attributes:
        kind: the kind.
        sample: samples the transcripts of one item without a judge, given the model, the item and the settings. Each
            has at least "id", "prompt", "reply", "thoughts" and "stop_reason", and those of an item differ in
            "condition" or "sample".
    """

    kind: EvalKind
    sample: Callable[[Model, Any, Any], Coroutine[Any, Any, list[dict[str, Any]]]]


# They are imported here, so that their code is part of the address of a result.
SOURCES: Mapping[str, Source] = {
    "agentic_misalignment": Source(agentic.KIND, agentic.sample),
    "alignment_faking": Source(alignment_faking.KINDS["alignment_faking"], alignment_faking.sample),
    "open_qa": Source(open_qa.KIND, open_qa.sample),
}
BOOK = packaged("reasons.jsonl")
_LABELLED = packaged("reasons_labelled.jsonl")


@dataclass(frozen=True)
class ReasoningConfig(EvalConfig):
    """Settings of the kind; `path` is the code book.

    Attributes:
        of: the settings of the eval whose transcripts are read; its judge is not asked.
        judge: classifies each transcript.
        counted: the reasons that give an item the score 1; all harmful ones where none is named.
        labelled: the file of labelled transcripts for a code book of one's own; "" for none.
    """

    of: Mapping[str, Any] = field(default_factory=dict)
    judge: JudgeConfig | None = None
    counted: tuple[str, ...] = ()
    labelled: str = ""

    def __post_init__(self) -> None:
        """Refuses another eval that has no transcripts or is set wrongly, and an agreement that cannot be measured."""
        super().__post_init__()
        self.source()
        if self.judge and self.judge.least_agreement and not self.labels():
            raise InputError("judge.least_agreement: needs transcripts labelled by this code book; set labelled")

    def source(self) -> tuple[Source, EvalConfig]:
        """Returns the kind of the eval whose transcripts are read, and its settings.

        Raises:
            InputError: they are refused.
        """
        name = self.of.get("kind", "")
        if name not in SOURCES:
            raise InputError(f"of.kind: is {name!r}; choose an eval with transcripts: {', '.join(SOURCES)}")
        source = SOURCES[name]
        return source, settings.build(source.kind.settings, {"path": source.kind.items, **self.of}, "of")

    def labels(self) -> str:
        """Returns the file of the labelled transcripts, "" where there is none for this code book."""
        return self.labelled or (_LABELLED if self.path == BOOK else "")


@dataclass(frozen=True)
class Case:
    """An item of the other eval, and the code book by which its transcripts are classified."""

    id: str
    item: Any
    book: Book


def read(config: ReasoningConfig) -> list[Case]:
    """Reads the code book, and the items of the other eval.

    Raises:
        InputError: names file, line and field of what is wrong.
    """
    book = codes.read(config.path)
    codes.check_known(config.counted, book, "counted")
    if config.labels():
        _labelled(config, book)
    source, of = config.source()
    return [Case(item.id, item, book) for item in source.kind.read(of)]


async def run(models: Mapping[str, Model], cases: Sequence[Case], config: ReasoningConfig) -> EvalResult:
    """Samples the transcripts of each case, and lets the judge say which reasons they give.

    Each transcript is an item. It scores 1 if it gives one of the counted reasons, 0 if it gives none of them, and None
    without a verdict; its "reasons" hold 1 or 0 (None) for every reason of the book. `rates` hold the share of the
    transcripts with a verdict that give each reason, and of those that give none.
    """
    source, of = config.source()

    async def classified(case: Case) -> list[tuple[dict[str, Any], Verdict]]:
        transcripts = await source.sample(models["model"], case.item, of)
        verdicts = await asyncio.gather(
            *(codes.classify(models["judge"], transcript, case.book, config.judge) for transcript in transcripts)
        )
        return [
            (_judged(transcript, verdict, case.book, config.counted), verdict)
            for transcript, verdict in zip(transcripts, verdicts, strict=True)
        ]

    found = [each for of_case in await asyncio.gather(*map(classified, cases)) for each in of_case]
    transcripts = [transcript for transcript, _ in found]
    scored = [{key: each[key] for key in ("id", "score", "cluster", "reasons")} for each in transcripts]
    book = cases[0].book if cases else ()
    rates = {
        **{f"gives {code.id}": mean_of(each["reasons"][code.id] for each in scored) for code in book},
        "gives none of these": mean_of(
            None if each["score"] is None else not any(each["reasons"].values()) for each in scored
        ),
        **judging.rates([verdict for _, verdict in found]),
    }
    return aggregate(scored, transcripts, mean_of(each["score"] is not None for each in scored), rates)


def _judged(transcript: Mapping[str, Any], verdict: Verdict, book: Book, counted: Sequence[str]) -> dict[str, Any]:
    """Returns a transcript with the reasons that it gives, its score, and a name that no other one has."""
    name = "/".join(str(transcript[key]) for key in ("id", "condition", "sample") if key in transcript)
    names = counted or [code.id for code in book if code.harmful]
    value = verdict.value
    return {
        "id": name,
        # Transcripts of one prompt are not independent.
        "cluster": transcript.get("cluster") or transcript.get("cell") or transcript["id"],
        "prompt": transcript["prompt"],
        "reply": transcript["reply"],
        "thoughts": transcript["thoughts"],
        "stop_reason": transcript["stop_reason"],
        "judge": verdict.replies,
        "reasons": {code.id: None if value is None else float(code.id in value) for code in book},
        "score": None if value is None else float(any(each in value for each in names)),
    }


def _labelled(config: ReasoningConfig, book: Book) -> list[Mapping[str, Any]]:
    """Reads the labelled transcripts.

    Raises:
        InputError: names file, line and field of what is wrong.
    """

    def labelled(record: items.Record) -> Mapping[str, Any]:
        record.text("reply", record.fields["reply"])
        codes.check_known(record.strings("label"), book, f'{record.where}: field "label"')
        return record.fields

    return items.read(config.labels(), ("reply", "label"), (), labelled)


async def trial(judge: Model, config: ReasoningConfig) -> float | None:
    """Returns the share of labelled transcripts for which a judge names exactly the labelled reasons; None without any.

    Raises:
        WorkError: the share is below the judge's `least_agreement`.
    """
    if not config.labels():
        return None
    book = codes.read(config.path)
    labelled = _labelled(config, book)
    verdicts = await asyncio.gather(*(codes.classify(judge, each, book, config.judge) for each in labelled))
    return judging.agreement(verdicts, [frozenset(each["label"]) for each in labelled], config.judge)


def _files(config: ReasoningConfig) -> tuple[str, ...]:
    _, of = config.source()
    return tuple(filter(None, [of.path, config.labels()]))


def _packages(config: ReasoningConfig) -> tuple[str, ...]:
    source, of = config.source()
    return source.kind.packages(of)


KIND = EvalKind(
    ReasoningConfig,
    read,
    run,
    {"model": frozenset({"generate"}), "judge": frozenset({"generate"})},
    items=BOOK,
    trial=trial,
    files=_files,
    packages=_packages,
)
