"""What an experiment asks of its results: contrasts, dose curves, and what is expected. Configs hold the same."""

import dataclasses
import string
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from msm_jax.errors import InputError
from msm_jax.foundation import settings

Measure = Literal["share", "probability", "nats"]
_ROOM = {"points", "direction", "amount"}


@dataclasses.dataclass(frozen=True)
class EqualLevel:
    """Two families of doses whose gains are compared at equal levels before; see `analysis.equal_level`.

    Attributes:
      more: (arm before, arm after) for each dose of the first family.
      less: the same for the second family.
    """

    more: tuple[tuple[str, str], ...]
    less: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class ContrastSpec:
    """A contrast: exactly one of `terms`, `mean_of` and `equal_level` says what is compared.

    Attributes:
      eval: the eval; a mean has those of its contrasts.
      terms: {arm: weight}; the contrast is the sum of weight × mean of the arm.
      measure: "share" of the items that go as the eval favours, "probability" of that, or margin in "nats".
      mean_of: other contrasts of one measure, whose mean this is.
      equal_level: two families of doses, compared at equal levels.
      sentence: a template for the report, empty for the default one. {amount} becomes "12 points" or "1.20 nats",
        {points} the number alone, both without a sign, and {direction} "more" or "less"; for an equal level, {level},
        {more} and {less} become the level before and both gains.
    """

    eval: str = ""
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measure: Measure = "share"
    mean_of: tuple[str, ...] = ()
    equal_level: EqualLevel | None = None
    sentence: str = ""

    def arms(self) -> list[str]:
        """Returns the arms that it compares, each once; a mean names none itself."""
        pairs = (*self.equal_level.more, *self.equal_level.less) if self.equal_level else ()
        return list(dict.fromkeys([*self.terms, *(arm for pair in pairs for arm in pair)]))


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What a contrast or the level of an arm should be; None or False where a condition does not apply.

    Attributes:
      min: the least value of the estimate.
      max: the largest value of the estimate.
      above_zero: the interval lies above 0; of contrasts alone.
      inside: the interval lies within ± this; of contrasts alone.
      eval: the eval whose level is meant, for an expectation whose name is neither a contrast nor an eval.
      arm: the arm whose level is meant; without one, the arms that all seeds share, or all arms if there are none.
      sentence: what is expected and why, for the report.
    """

    min: float | None = None
    max: float | None = None
    above_zero: bool = False
    inside: float | None = None
    eval: str = ""
    arm: str = ""
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Levels of arms on an eval that others have measured, for the report to show beside its own.

    Attributes:
      eval: the eval.
      source: who measured them and where they are printed, and in what their eval differs from this one.
      levels: {arm: mean score, from 0 to 1}.
    """

    eval: str
    source: str
    levels: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class SweepExpectation:
    """What a contrast should be over the worlds of a sweep; None, False or 0 where a condition does not apply.

    Attributes:
      min: the least value of the mean over worlds.
      max: the largest value of the mean over worlds.
      above_zero: the interval over worlds lies above 0.
      inside: the interval over worlds lies within ± this.
      above_zero_in: in at least so many worlds, the world's own interval lies above 0.
      sentence: what is expected and why, for the page.
    """

    min: float | None = None
    max: float | None = None
    above_zero: bool = False
    inside: float | None = None
    above_zero_in: int = 0
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class CurveSpec:
    """Dose curves: the levels of arms by a dose, one plot for each eval and one line for each series.

    Attributes:
      x: the doses, increasing.
      xlabel: what the doses are.
      series: {label: the arm of each dose}; an arm may occur in several series.
      evals: the evals that are shown.
    """

    x: tuple[float, ...]
    xlabel: str
    series: Mapping[str, tuple[str, ...]]
    evals: tuple[str, ...]

    def arms(self) -> list[str]:
        """Returns the arms of all series, each once."""
        return list(dict.fromkeys(arm for arms in self.series.values() for arm in arms))


def check_references(
    references: Iterable[Reference], where: str, evals: Collection[str], arms: Collection[str]
) -> None:
    """Checks that references name evals and arms that exist, a source, and levels from 0 to 1.

    Raises:
      InputError: naming the entry and the field.
    """
    for i, each in enumerate(references):
        at = f"{where}reference[{i}]"
        refuse_unknown((each.eval,), f"{at}.eval", "eval", evals)
        refuse_unknown(each.levels, f"{at}.levels", "arm", arms)
        if not each.source.strip() or not each.levels:
            lacking = "levels" if each.source.strip() else "source"
            raise InputError(f"{at}: has no {lacking}; add it, or remove the entry")
        for arm, level in each.levels.items():
            if not 0 <= level <= 1:
                raise InputError(f"{at}.levels.{arm}: is {level}; a level lies between 0 and 1")


def measure_of(name: str, contrasts: Mapping[str, ContrastSpec]) -> Measure:
    """Returns the measure of a contrast; that of a mean is that of its members."""
    spec = contrasts[name]
    return contrasts[spec.mean_of[0]].measure if spec.mean_of else spec.measure


def members_of(name: str, contrasts: Mapping[str, ContrastSpec]) -> list[ContrastSpec]:
    """Returns the contrasts whose mean a contrast is; itself where it is no mean."""
    spec = contrasts[name]
    return [contrasts[member] for member in spec.mean_of] or [spec]


def check_contrasts(
    contrasts: Mapping[str, ContrastSpec], where: str, evals: Collection[str], arms: Mapping[str, Collection[str]]
) -> None:
    """Checks that every name in contrasts refers to something; `arms` is {arm: the evals that it is measured on}.

    Raises:
        InputError: names the field after `where`.
    """
    for name, spec in contrasts.items():
        at = f"{where}contrasts.{name}"
        forms = [form for form in ("terms", "mean_of", "equal_level") if getattr(spec, form)]
        if len(forms) != 1:
            found = " and ".join(forms) or "terms"
            raise InputError(f"{at}.{found}: {'exclude each other' if forms else 'is empty'}; name what is compared")
        _check_sentence(spec, f"{at}.sentence")
        if spec.mean_of:
            _check_mean(name, contrasts, at)
            continue
        refuse_unknown([spec.eval], f"{at}.eval", "eval", evals)
        if spec.equal_level and not (spec.equal_level.more and spec.equal_level.less):
            raise InputError(f"{at}.equal_level: more or less is empty; give each family at least one pair of arms")
        refuse_unknown(spec.arms(), f"{at}.{forms[0]}", "arm", arms)
        for arm in spec.arms():
            if spec.eval not in arms[arm]:
                raise InputError(f"{at}.{forms[0]}: {arm!r} is not measured on {spec.eval!r}; name an arm that is")


def _check_mean(name: str, contrasts: Mapping[str, ContrastSpec], at: str) -> None:
    spec = contrasts[name]
    refuse_unknown(spec.mean_of, f"{at}.mean_of", "contrast", contrasts)
    if len(set(spec.mean_of)) < max(2, len(spec.mean_of)):
        raise InputError(f"{at}.mean_of: {spec.mean_of} must be at least two contrasts, each once")
    if spec.eval or spec.measure != "share":
        raise InputError(f"{at}: eval and measure of a mean are those of its contrasts; remove them")
    members = members_of(name, contrasts)
    if any(member.mean_of for member in members):
        raise InputError(f"{at}.mean_of: one of them is a mean itself; name its contrasts")
    if len({(member.measure, member.equal_level is None) for member in members}) > 1:
        raise InputError(f"{at}.mean_of: its contrasts differ in measure or form; take the mean of like ones")


def _check_sentence(spec: ContrastSpec, where: str) -> None:
    try:
        named = [field for _, field, _, _ in string.Formatter().parse(spec.sentence) if field is not None]
    except ValueError as error:
        message = f"{where} is not a template ({error}); write {{points}} and {{direction}}"
        raise InputError(message) from error
    refuse_unknown(named, where, "field", _ROOM | ({"level", "more", "less"} if spec.equal_level else set()))


def check_curves(
    curves: Mapping[str, CurveSpec], where: str, evals: Collection[str], arms: Mapping[str, Collection[str]]
) -> None:
    """Checks that dose curves have one arm for each dose, and that each is measured; see `check_contrasts`.

    Raises:
        InputError: names the field after `where`.
    """
    for name, spec in curves.items():
        at = f"{where}curves.{name}"
        if len(spec.x) < 2 or any(a >= b for a, b in zip(spec.x, spec.x[1:], strict=False)):
            raise InputError(f"{at}.x: {spec.x} must be at least two doses that increase")
        for field in ("series", "evals"):
            if not getattr(spec, field):
                raise InputError(f"{at}.{field}: is empty; name at least one")
        refuse_unknown(spec.evals, f"{at}.evals", "eval", evals)
        for label, row in spec.series.items():
            if len(row) != len(spec.x):
                raise InputError(f"{at}.series.{label}: has {len(row)} arms for {len(spec.x)} doses; name one for each")
            refuse_unknown(row, f"{at}.series.{label}", "arm", arms)
            for arm, on in ((arm, on) for arm in row for on in spec.evals if on not in arms[arm]):
                raise InputError(f"{at}.series.{label}: {arm!r} is not measured on {on!r}; name an arm that is")


def check_expectations(
    expectations: Mapping[str, Expectation],
    where: str,
    contrasts: Collection[str],
    evals: Collection[str],
    arms: Mapping[str, Collection[str]],
) -> None:
    """Checks that every expectation is one of a contrast or of a level that is measured; see `check_contrasts`.

    Raises:
        InputError: names the field after `where`.
    """
    for name, expectation in expectations.items():
        at = f"{where}expectations.{name}"
        if name in contrasts:
            if expectation.eval or expectation.arm:
                raise InputError(f"{at}: is of a contrast, which has no eval or arm; remove them or take another name")
        else:
            if expectation.eval:
                refuse_unknown([expectation.eval], f"{at}.eval", "eval", evals)
            else:
                refuse_unknown([name], f"{where}expectations", "contrast or eval", {*contrasts, *evals})
            if expectation.above_zero or expectation.inside is not None:
                raise InputError(f'{at}: an eval takes "min" and "max" alone; use a contrast for the rest')
            if expectation.arm:
                refuse_unknown([expectation.arm], f"{at}.arm", "arm", arms)
                if (expectation.eval or name) not in arms[expectation.arm]:
                    level = expectation.eval or name
                    raise InputError(f"{at}.arm: {expectation.arm!r} is not measured on {level!r}; name one that is")
        if expectation.inside is not None and expectation.inside <= 0:
            raise InputError(f"{at}.inside is {expectation.inside:g}; give the half-width, above 0")


def check_sweep_expectations(
    expectations: Mapping[str, SweepExpectation], where: str, contrasts: Collection[str]
) -> None:
    """Checks that what is expected over worlds is of contrasts.

    Raises:
        InputError: names the field after `where`.
    """
    refuse_unknown(expectations, f"{where}sweep_expectations", "contrast", contrasts)
    for name, expectation in expectations.items():
        for field in ("inside", "above_zero_in"):
            value = getattr(expectation, field)
            if value is not None and (value < 0 or (field == "inside" and value == 0)):
                raise InputError(f"{where}sweep_expectations.{name}.{field} is {value:g}; it must be above 0")


def refuse_unknown(names: Iterable[str], where: str, kind: str, known: Collection[str]) -> None:
    """Refuses names of a `kind` that are not among those `known`.

    Raises:
        InputError: one of them is unknown; the message names the nearest known one.
    """
    for name in names:
        if name not in known:
            raise InputError(f"{where}: unknown {kind} {name!r}; {settings.nearest(name, known)}")
