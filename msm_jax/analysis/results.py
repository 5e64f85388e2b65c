"""The form in which an experiment hands its results to the report: a plain dict, checked and turned into dataclasses.

    {
      "experiment": "cheese_mini",
      "question": "the question that the experiment asks, in prose",
      "scope": "given one pretraining and one world",      # optional: what is the same in all seeds
      "seeds": [{"world": 100, "pretrain": 0, "seed": 0}, ...],
      "arms": {arm: {eval: {
          # In the order of `seeds`. A score is in [0, 1], or None where a reply was not parsed. A seed without a run
          # is None.
          "per_seed": [[score, None, ...], ...],
          "item_ids": ["...", ...],                        # one per score; the same in all arms of a contrast
          "parse_rate": 0.98}}},                           # optional, for generated answers
      "shared_arms": ["base"],                             # arms with one run for all seeds: one list in `per_seed`
      "chains": {arm: [phase, phase, ...]},                # the phases that each arm trains, in their order
      "midtraining": [phase, ...],                         # the phases of these chains that are midtraining
      "gates": [eval, ...],                                # evals that say whether the arms may be read at all
      "doses": {dose: {arm: other arm}},                   # the arm is the other arm with another dose of midtraining
      "generated": {eval: other eval},                     # the eval asks the other one's items for generated answers
      # `sentence` is optional: {direction} becomes "more" or "less", {points} is a number without a sign.
      "contrasts": {name: {"eval": eval, "terms": {arm: coefficient},
          "sentence": "... picks the cheap option {points} points {direction} often than ..."}},
      # A contrast takes any of the three conditions. An eval takes "min" and the arm in which it is measured; without
      # an arm it is measured in the shared arms that have the eval, or in all arms where no shared arm has it.
      "expectations": {contrast or eval: {
          "min": 0.4, "above_zero": True, "inside": 0.2, "arm": arm, "sentence": "what is expected and why"}},
      # Sums over the runs of a phase; "runs" is their number, 1 by default.
      "cost": {phase: {"tokens", "optimizer_steps", "flops", "wall_seconds", "device_seconds", "runs": 3}},
      "arm_tokens": {arm: {"last": n, "midtraining": n}},  # tokens of one run
      # Nodes of one kind and label are runs of the same thing in different seeds, shown together. The label of a phase
      # or of its evals is its chain, "pretrain/msm/sft".
      "graph": [{"id", "kind", "label", "parents": [id, ...], "status": "ran" | "reused", "seconds"}],
      "curves": {label: [[{"step", "loss", "learning_rate"?}, ...], ...]},     # one list of points per run
      "samples": {arm: {eval: [{"prompt": text or messages, "reply", "parsed"?, "score"?}]}},
      "warnings": ["..."],                                 # shown beside the warnings that the analysis finds
      "environment": {"jax": "0.10.2", ...}
    }

Only `experiment`, `seeds`, `arms` and `contrasts` are required. No meaning is read from the names of arms, phases and
evals.
"""

import dataclasses
import math
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from msm_jax.analysis import fields
from msm_jax.analysis.statistics import Floats
from msm_jax.errors import InputError
from msm_jax.foundation import settings

COST_FIELDS = ("tokens", "optimizer_steps", "flops", "wall_seconds", "device_seconds")
_FIELDS: tuple[str, ...] = (
    *("experiment", "question", "scope", "seeds", "arms", "shared_arms", "chains", "midtraining", "gates", "doses"),
    *("generated", "contrasts", "expectations", "cost", "arm_tokens", "graph", "curves", "samples", "warnings"),
    "environment",
)
_NODE = ("id", "kind", "label", "parents", "status", "seconds")


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one arm on one eval.

    `values_SN` is `[seeds, items]`, or `[1, items]` for a shared run, with NaN where a reply was not parsed. `ran_S`,
    bool `[seeds]`, says which seeds have a run. `parse_rate` is the one that the eval reported.
    """

    values_SN: Floats
    ran_S: np.ndarray
    item_ids: tuple[str, ...]
    parse_rate: float | None
    shared: bool


@dataclasses.dataclass(frozen=True)
class ContrastSpec:
    """A linear combination of arms, `sum(terms[arm] * score of arm)`, on one eval.

    `sentence` is a template for the report, empty for the default one.
    """

    eval: str
    terms: Mapping[str, float]
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class Expectation:
    """The conditions that a contrast or an eval should meet; None or False where a condition does not apply."""

    min: float | None = None
    above_zero: bool = False
    inside: float | None = None
    arm: str = ""
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the phase graph; `status` is "ran" or "reused", and seeds of one node share its `label`."""

    id: str
    kind: str
    label: str
    parents: tuple[str, ...]
    status: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of an experiment: the checked form of the dict in this module's docstring."""

    experiment: str
    question: str
    scope: str
    seeds: tuple[Mapping[str, Any], ...]
    arms: Mapping[str, Mapping[str, Scores]]
    chains: Mapping[str, tuple[str, ...]]
    midtraining: tuple[str, ...]
    gates: tuple[str, ...]
    doses: Mapping[str, Mapping[str, str]]
    generated: Mapping[str, str]
    contrasts: Mapping[str, ContrastSpec]
    expectations: Mapping[str, Expectation]
    cost: Mapping[str, Mapping[str, float]]
    arm_tokens: Mapping[str, Mapping[str, int]]
    graph: tuple[Node, ...]
    curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
    samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]

    def evals(self) -> list[str]:
        """Returns the names of the evals: those of the contrasts first, in their order; generated answers and gates
        last."""
        named = [spec.eval for spec in self.contrasts.values()]
        every = named + [name for evals in self.arms.values() for name in evals]
        return sorted(dict.fromkeys(every), key=lambda name: (name in self.gates, name in self.generated))


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Returns {label: short form}: "pretrain/msm/sft" becomes "msm/sft" where "pretrain" is a label of its own."""
    every = dict.fromkeys(labels)
    return {
        label: rest if rest and first in every else label
        for label in every
        for first, _, rest in [label.partition("/")]
    }


def parse(results: Mapping[str, Any]) -> Results:
    """Returns the checked form of `results` (see the module's docstring).

    Raises:
        InputError: a field is missing, unknown, of the wrong type or size, or names an arm, phase, eval or node that
            does not exist.
    """
    fields.known(results, "results", set(_FIELDS), required=("experiment", "seeds", "arms", "contrasts"))
    seeds = tuple(
        fields.mapping(seed, f"results.seeds[{i}]")
        for i, seed in enumerate(fields.sequence(results["seeds"], "results.seeds"))
    )
    if not seeds:
        raise InputError("results.seeds is empty; an experiment has at least one seed")
    shared = fields.strings(results.get("shared_arms", ()), "results.shared_arms")
    arms = {
        arm: {
            name: _scores(entry, f"results.arms.{arm}.{name}", len(seeds), arm in shared)
            for name, entry in fields.mapping(evals, f"results.arms.{arm}").items()
        }
        for arm, evals in fields.mapping(results["arms"], "results.arms").items()
    }
    contrasts = {
        name: _contrast(entry, f"results.contrasts[{name!r}]", arms)
        for name, entry in fields.mapping(results["contrasts"], "results.contrasts").items()
    }
    evals = {name for scored in arms.values() for name in scored}
    generated = _texts(_optional(results, "generated"), "results.generated")
    check_forms(generated, "results.generated", "eval", evals)
    chains = {
        arm: fields.strings(chain, f"results.chains.{arm}") for arm, chain in _optional(results, "chains").items()
    }
    trained = {phase for chain in chains.values() for phase in chain}
    doses = {dose: _texts(entry, f"results.doses.{dose}") for dose, entry in _optional(results, "doses").items()}
    check_doses(doses, "results.doses", {*arms, *chains})
    return Results(
        experiment=fields.text(results["experiment"], "results.experiment"),
        question=fields.text(results.get("question", ""), "results.question"),
        scope=fields.text(results.get("scope", ""), "results.scope"),
        seeds=seeds,
        arms=arms,
        chains=chains,
        midtraining=_names(results.get("midtraining", ()), "results.midtraining", "phase", trained),
        gates=_names(results.get("gates", ()), "results.gates", "eval", evals),
        doses=doses,
        generated=generated,
        contrasts=contrasts,
        expectations=_expectations(results.get("expectations", {}), contrasts, arms, evals),
        cost={
            phase: _cost(entry, f"results.cost[{phase!r}]")
            for phase, entry in _optional(results, "cost").items()
        },
        arm_tokens=_arm_tokens(_optional(results, "arm_tokens"), arms),
        graph=_graph(fields.sequence(results.get("graph", ()), "results.graph")),
        curves=_curves(_optional(results, "curves")),
        samples=_samples(_optional(results, "samples")),
        warnings=fields.strings(results.get("warnings", ()), "results.warnings"),
        environment=_optional(results, "environment"),
    )


def _scores(entry: Any, where: str, n_seeds: int, shared: bool) -> Scores:
    fields.known(entry, where, {"per_seed", "item_ids", "parse_rate"}, required=("per_seed", "item_ids"))
    item_ids = tuple(str(item) for item in fields.sequence(entry["item_ids"], f"{where}.item_ids"))
    if not item_ids:
        raise InputError(f"{where}.item_ids is empty; an eval has at least one item")
    rows = list(fields.sequence(entry["per_seed"], f"{where}.per_seed"))
    if shared:
        rows = [row for row in rows if row is not None]
        if len(rows) != 1:
            raise InputError(f"{where}.per_seed has {len(rows)} runs; a shared arm has exactly one")
    elif len(rows) != n_seeds:
        raise InputError(
            f"{where}.per_seed has {len(rows)} entries for {n_seeds} seeds; give one each, None without a run"
        )
    values_SN = np.full((len(rows), len(item_ids)), np.nan)
    for i, row in enumerate(rows):
        if row is None:
            continue
        if len(fields.sequence(row, f"{where}.per_seed[{i}]")) != len(item_ids):
            raise InputError(
                f"{where}.per_seed[{i}] has {len(row)} scores for {len(item_ids)} item_ids; give one per item"
            )
        values_SN[i] = [
            math.nan if score is None else fields.number(score, f"{where}.per_seed[{i}]") for score in row
        ]
    finite = values_SN[np.isfinite(values_SN)]
    if finite.size and (finite.min() < 0 or finite.max() > 1):
        raise InputError(f"{where}.per_seed holds a score outside [0, 1]; scores are shares or probabilities")
    rate = entry.get("parse_rate")
    ran_S = np.array([row is not None for row in rows])
    return Scores(
        values_SN, ran_S, item_ids, None if rate is None else fields.number(rate, f"{where}.parse_rate"), shared
    )


def _contrast(entry: Any, where: str, arms: Mapping[str, Mapping[str, Scores]]) -> ContrastSpec:
    fields.known(entry, where, {"eval", "terms", "sentence"}, required=("eval", "terms"))
    name = fields.text(entry["eval"], f"{where}.eval")
    terms = {
        arm: fields.number(c, f"{where}.terms.{arm}")
        for arm, c in fields.mapping(entry["terms"], f"{where}.terms").items()
    }
    if not terms:
        raise InputError(f"{where}.terms is empty; name at least one arm with its coefficient")
    for arm in terms:
        if arm not in arms:
            raise InputError(f"{where}.terms.{arm}: no such arm; the arms are {', '.join(arms)}")
        if name not in arms[arm]:
            raise InputError(f"{where}.eval: arm {arm!r} was not scored on {name!r}; add the eval to the arm")
    first, *others = terms
    for arm in others:
        if arms[arm][name].item_ids != arms[first][name].item_ids:
            raise InputError(
                f"{where}: {first!r} and {arm!r} were scored on different items of {name!r}; score the same"
            )
    sentence = fields.text(entry.get("sentence", ""), f"{where}.sentence")
    try:
        named = {field for _, field, _, _ in string.Formatter().parse(sentence) if field is not None}
    except ValueError as error:
        raise InputError(
            f"{where}.sentence is not a template ({error}); write {{points}} and {{direction}}"
        ) from error
    for field in sorted(named - {"points", "direction"}):
        raise InputError(
            f"{where}.sentence: unknown field {{{field}}}; the fields are {{points}} and {{direction}}"
        )
    return ContrastSpec(name, terms, sentence)


def _expectations(
    entries: Any,
    contrasts: Mapping[str, ContrastSpec],
    arms: Mapping[str, Mapping[str, Scores]],
    evals: Collection[str],
) -> dict[str, Expectation]:
    parsed = {}
    for name, entry in fields.mapping(entries, "results.expectations").items():
        where = f"results.expectations[{name!r}]"
        fields.known(entry, where, {"min", "above_zero", "inside", "arm", "sentence"})
        if name not in contrasts and name not in evals:
            raise InputError(f"{where}: neither a contrast nor an eval; name one of them")
        if name not in contrasts and (entry.get("above_zero") or entry.get("inside") is not None):
            raise InputError(f'{where}: an eval takes "min" alone; use a contrast for the rest')
        arm = fields.text(entry.get("arm", ""), f"{where}.arm")
        if arm and name not in arms.get(arm, {}):
            raise InputError(f"{where}.arm: {arm!r} was not scored on {name!r}; name an arm that was")
        bounds = {
            key: fields.number(entry[key], f"{where}.{key}")
            for key in ("min", "inside")
            if entry.get(key) is not None
        }
        if bounds.get("inside", 1.0) <= 0:
            raise InputError(f"{where}.inside is {bounds['inside']:g}; give the half-width, above 0")
        sentence = fields.text(entry.get("sentence", ""), f"{where}.sentence")
        parsed[name] = Expectation(
            **bounds, above_zero=bool(entry.get("above_zero")), arm=arm, sentence=sentence
        )
    return parsed


def _cost(entry: Any, where: str) -> dict[str, float]:
    fields.known(entry, where, {*COST_FIELDS, "runs"}, required=COST_FIELDS)
    return {"runs": 1, **{name: fields.number(value, f"{where}.{name}") for name, value in entry.items()}}


def _arm_tokens(entries: Mapping[str, Any], arms: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    parsed = {}
    for arm, entry in entries.items():
        where = f"results.arm_tokens.{arm}"
        fields.known(entry, where, {"last", "midtraining"})
        if arm not in arms:
            raise InputError(f"{where}: no such arm; the arms are {', '.join(arms)}")
        parsed[arm] = {name: int(fields.number(value, f"{where}.{name}")) for name, value in entry.items()}
    return parsed


def _graph(entries: Sequence[Any]) -> tuple[Node, ...]:
    nodes = []
    for i, entry in enumerate(entries):
        where = f"results.graph[{i}]"
        fields.known(entry, where, set(_NODE), required=_NODE)
        if entry["status"] not in ("ran", "reused"):
            raise InputError(f'{where}.status is {entry["status"]!r}; write "ran" or "reused"')
        name, kind, label = (fields.text(entry[field], f"{where}.{field}") for field in ("id", "kind", "label"))
        parents = fields.strings(entry["parents"], f"{where}.parents")
        seconds = fields.number(entry["seconds"], f"{where}.seconds")
        nodes.append(Node(name, kind, label, parents, entry["status"], seconds))
    known = {node.id for node in nodes}
    for node in nodes:
        for parent in node.parents:
            if parent not in known:
                raise InputError(
                    f"results.graph: {node.id!r} has the unknown parent {parent!r}; add it or drop the edge"
                )
    return tuple(nodes)


def _curves(entries: Mapping[str, Any]) -> dict[str, list[list[Mapping[str, float]]]]:
    parsed: dict[str, list[list[Mapping[str, float]]]] = {}
    for label, runs in entries.items():
        parsed[label] = []
        for r, points in enumerate(fields.sequence(runs, f"results.curves[{label!r}]")):
            where = f"results.curves[{label!r}][{r}]"
            every = fields.sequence(points, where)
            parsed[label].append([fields.mapping(point, f"{where}[{i}]") for i, point in enumerate(every)])
            for i, point in enumerate(parsed[label][-1]):
                for name in ("step", "loss"):
                    fields.number(point.get(name), f"{where}[{i}].{name}")
    return parsed


def _samples(entries: Mapping[str, Any]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    parsed: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for arm, evals in entries.items():
        parsed[arm] = {}
        for name, samples in fields.mapping(evals, f"results.samples.{arm}").items():
            where = f"results.samples.{arm}.{name}"
            parsed[arm][name] = [
                fields.mapping(sample, f"{where}[{i}]") for i, sample in enumerate(fields.sequence(samples, where))
            ]
            for i, sample in enumerate(parsed[arm][name]):
                for field in ("prompt", "reply"):
                    if field not in sample:
                        raise InputError(f"{where}[{i}].{field} is missing; add it")
    return parsed


def check_doses(doses: Mapping[str, Mapping[str, str]], where: str, arms: Collection[str]) -> None:
    """Checks {dose: {arm: the arm whose dose it is}}.

    Raises:
        InputError: an arm does not exist, has two doses, or is a dose of a dose.
    """
    listed = [arm for dose in doses.values() for arm in dose]
    for arm in listed:
        if listed.count(arm) > 1:
            raise InputError(f"{where}: arm {arm!r} is listed twice; an arm has one dose")
    check_forms({arm: of for dose in doses.values() for arm, of in dose.items()}, where, "arm", arms)


def check_forms(forms: Mapping[str, str], where: str, kind: str, known: Collection[str]) -> None:
    """Checks {name: the name that it is another form of}; `kind` is the word for what has these names.

    Raises:
        InputError: a name does not exist, or is a form of a form.
    """
    for name, of in forms.items():
        refuse_unknown((name, of), where, kind, known)
        if of in forms:
            raise InputError(f"{where}: {name!r} refers to {of!r}, which refers to {forms[of]!r}; name that one")


def refuse_unknown(names: Iterable[str], where: str, kind: str, known: Collection[str]) -> None:
    """Refuses names of a `kind` that are not among those `known`.

    Raises:
        InputError: one of them is unknown; the message names the nearest known one.
    """
    for name in names:
        if name not in known:
            raise InputError(f"{where}: unknown {kind} {name!r}; {settings.nearest(name, known)}")


def _names(value: Any, where: str, kind: str, known: Collection[str]) -> tuple[str, ...]:
    names = fields.strings(value, where)
    refuse_unknown(names, where, kind, known)
    return names


def _texts(entry: Any, where: str) -> dict[str, str]:
    return {name: fields.text(value, f"{where}.{name}") for name, value in fields.mapping(entry, where).items()}


def _optional(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return fields.mapping(results.get(name, {}), f"results.{name}")
