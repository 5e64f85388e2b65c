"""The interface of a kind of eval: its settings, its item reader, its run, the models that it needs, and its result."""

import dataclasses
import statistics
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError
from msm_jax.sampling.model import Capability, Model

# Fields of an item that a report shows beside its score, by measure.
MEASURES = {"probability": "probability", "nats": "margin"}


@dataclass(frozen=True)
class EvalConfig:
    """Settings of one eval that every kind has; a kind with more settings has a subclass.

    Attributes:
        kind: a name in `kinds.KINDS`, or the dotted name of a module that defines a kind.
        path: the item file: JSONL or Parquet, a comma list or a glob. `kinds.build` fills in the items that come with
            a kind where it has some.
    """

    kind: str
    path: str

    def __post_init__(self) -> None:
        """Refuses an empty path."""
        if not self.path:
            raise InputError("path: is not set; name the file of the items")


@dataclass(frozen=True)
class EvalResult:
    """Scores per item.

    Attributes:
        items: {"id", "score", ...} each: a score from 0 to 1, or None if no answer could be parsed. Further fields hold
            the values from which the score follows, those of `MEASURES` among them where the kind has them.
        mean: the mean of the scores that are not None; None if all are.
        n_items: the number of items that were asked, with a score or without.
        parse_rate: the share of answers that could be parsed; None if none was generated.
        transcripts: {"id", "prompt": messages, "reply", "score", ...} of each generated answer.
        rates: further figures of the whole eval by name, such as how often the position of an option decides.
    """

    items: list[dict[str, Any]]
    mean: float | None
    n_items: int
    parse_rate: float | None
    transcripts: list[dict[str, Any]]
    rates: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)


def aggregate(
    items: Sequence[dict[str, Any]],
    transcripts: Sequence[dict[str, Any]] = (),
    parse_rate: float | None = None,
    rates: Mapping[str, float | None] | None = None,
) -> EvalResult:
    """Computes the result of an eval from its items, whose scores are known; rates that are None are left out."""
    scores = [item["score"] for item in items if item["score"] is not None]
    mean = statistics.fmean(scores) if scores else None
    known = {name: rate for name, rate in (rates or {}).items() if rate is not None}
    return EvalResult(list(items), mean, len(items), parse_rate, list(transcripts), known)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None where all are."""
    known = [float(value) for value in values if value is not None]
    return statistics.fmean(known) if known else None


@dataclass(frozen=True)
class EvalKind:
    """A kind of eval, which a module offers as `KIND` (or, several of them by name, as `KINDS`).

    Attributes:
        settings: the dataclass of its settings.
        read: reads the items of an eval, given its settings. It refuses a bad file with an `InputError` that names
            file, line and field, and needs no model.
        run: asks the models and scores their answers, given the models by role, the items and the settings.
        needs: the capabilities that the model in each role must have. The model under test has the role "model".
        measures: the names in `MEASURES` whose fields its items have.
        items: the file of the items that come with the kind, for settings without a path; "" for none.
        trial: asks the judge about labelled transcripts before the eval runs, given the judge and the settings, and
            returns the share of them on which it agrees; None where these settings have no labels. None for a kind
            without a judge or labels.
        files: returns the data paths that results depend on beside the path of the settings.
        packages: returns the distributions that decide results beside those of every eval; their versions are part of
            the address of a result.
    """

    settings: type[EvalConfig]
    read: Callable[[Any], Sequence[Any]]
    run: Callable[[Any, Any, Any], Coroutine[Any, Any, EvalResult]]
    needs: Mapping[str, frozenset[Capability]]
    measures: frozenset[str] = frozenset()
    items: str = ""
    trial: Callable[[Model, Any], Coroutine[Any, Any, float | None]] | None = None
    files: Callable[[Any], tuple[str, ...]] = lambda config: ()
    packages: Callable[[Any], tuple[str, ...]] = lambda config: ()

    async def agreement(self, models: Mapping[str, Model], config: EvalConfig) -> dict[str, float]:
        """Returns the rate that tells how far the judge agrees with labels; empty where there are none.

        Raises:
            WorkError: the judge failed for good, or agrees with too few.
        """
        share = None if self.trial is None else await self.trial(models["judge"], config)
        return {} if share is None else {"judge agrees with labels": share}


def packaged(name: str) -> str:
    """Returns the path of an item file in `msm_jax/evals/data`."""
    return str(Path(__file__).parent / "data" / name)
