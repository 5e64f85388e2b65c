"""What an experiment hands to the report: a plain dict, checked here and turned into frozen dataclasses.

    {
      "experiment": "cheese_mini",
      "question": "what was asked, in prose",
      "scope": "given one pretraining and one world",      # optional: what the seeds do not vary
      "seeds": [{"world": 100, "pretrain": 0, "seed": 0}, ...],
      "arms": {arm: {eval: {
          # In the order of `seeds`. A score is in [0, 1], None = not parsed; a seed without a run is None.
          "per_seed": [[score, None, ...], ...],
          "item_ids": ["...", ...],                        # one per score; the same in arms of a contrast
          "parse_rate": 0.98}}},                           # optional, for generated answers
      "shared_arms": ["base"],                             # one run for all seeds: one list in `per_seed`
      # The sentence is optional: {direction} becomes "more" or "less", {points} has no sign.
      "contrasts": {name: {"eval": eval, "terms": {arm: coefficient},
          "sentence": "... picks the cheap option {points} points {direction} often than ..."}},
      # Optional. A contrast takes any of the three conditions, an eval takes "min" and the arm it is read in
      # (without one: the shared arms that have the eval, else every arm).
      "expectations": {contrast or eval: {
          "min": 0.4, "above_zero": True, "inside": 0.2, "arm": arm, "sentence": "what is expected and why"}},
      # Sums over the runs of a phase; "runs" says how many, default 1.
      "cost": {phase: {"tokens", "optimizer_steps", "flops", "wall_seconds", "device_seconds", "runs": 3}},
      "arm_tokens": {arm: {"last": n, "midtraining": n}},  # optional, tokens of one run
      "graph": [{"id", "kind", "label", "parents": [id, ...], "status": "ran" | "reused", "seconds"}],
      "curves": {phase: [{"step", "loss", "learning_rate"?}, ...]},
      "samples": {arm: {eval: [{"prompt": text or messages, "reply", "parsed"?, "score"?}]}},
      "gates": ["gate", "knowledge"],                      # evals that say whether arms may be read at all
      "warnings": ["..."],                                 # further ones, shown with those found here
      "environment": {"jax": "0.10.2", ...}
    }

Only `experiment`, `seeds`, `arms` and `contrasts` are required. Labels in `graph` and `curves` and phases in
`cost` may be chains, `pretrain/msm/sft`, and may end in `/SEED` (digits, or `seed` and digits): entries that
differ in the seed alone are shown together.
"""

import dataclasses
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from msm_jax.analysis import fields
from msm_jax.analysis.statistics import Floats
from msm_jax.errors import InputError

COST_FIELDS = ("tokens", "optimizer_steps", "flops", "wall_seconds", "device_seconds")
_FIELDS: tuple[str, ...] = (
    *("experiment", "question", "scope", "seeds", "arms", "shared_arms", "contrasts", "expectations", "cost"),
    *("arm_tokens", "graph", "curves", "samples", "gates", "warnings", "environment"),
)
_NODE = ("id", "kind", "label", "parents", "status", "seconds")


@dataclasses.dataclass(frozen=True)
class Scores:
    """One arm on one eval: `values_SN` `[seeds, items]`, or `[1, items]` for a shared run; NaN = not parsed;
    `ran_S` bool says which seeds have a run; `parse_rate` as the eval reported it."""

    values_SN: Floats
    ran_S: np.ndarray
    item_ids: tuple[str, ...]
    parse_rate: float | None
    shared: bool


@dataclasses.dataclass(frozen=True)
class ContrastSpec:
    """`sum(terms[arm] * score of arm)` on one eval; `sentence` is a template for the report, empty for the
    default."""

    eval: str
    terms: Mapping[str, float]
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What a contrast or an eval was expected to show; None or False where a condition does not apply."""

    min: float | None = None
    above_zero: bool = False
    inside: float | None = None
    arm: str = ""
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the phase graph; `status` is "ran" or "reused"."""

    id: str
    kind: str
    label: str
    parents: tuple[str, ...]
    status: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Results:
    """The checked form of the dict in this module's docstring."""

    experiment: str
    question: str
    scope: str
    seeds: tuple[Mapping[str, Any], ...]
    arms: Mapping[str, Mapping[str, Scores]]
    contrasts: Mapping[str, ContrastSpec]
    expectations: Mapping[str, Expectation]
    cost: Mapping[str, Mapping[str, float]]
    arm_tokens: Mapping[str, Mapping[str, int]]
    graph: tuple[Node, ...]
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    gates: tuple[str, ...]
    warnings: tuple[str, ...]
    environment: Mapping[str, Any]

    def evals(self) -> list[str]:
        """Eval names: those of the contrasts in their order, then the others; generated answers and gates
        last."""
        named = [spec.eval for spec in self.contrasts.values()]
        every = named + [name for evals in self.arms.values() for name in evals]
        unique = list(dict.fromkeys(every))
        return sorted(unique, key=lambda name: (name in self.gates, name.endswith("_greedy")))


def base_label(label: str) -> str:
    """A label without the seed it may end in: "msm/2" and "msm/seed2" become "msm"."""
    return re.sub(r"/(seed)?\d+$", "", label)


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Labels of chains, "pretrain/msm/sft", without a first part that is a label of its own, "msm/sft"."""
    every = list(labels)
    whole = {base_label(label) for label in every}
    return {
        label: rest if rest and first in whole else label
        for label in every
        for first, _, rest in [label.partition("/")]
    }


def parse(results: Mapping[str, Any]) -> Results:
    """Checks `results` (see the module's docstring).

    Raises:
        InputError: a field is missing, unknown, of the wrong type or size, or names an arm, eval or node that
            is not there.
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
    return Results(
        experiment=fields.text(results["experiment"], "results.experiment"),
        question=fields.text(results.get("question", ""), "results.question"),
        scope=fields.text(results.get("scope", ""), "results.scope"),
        seeds=seeds,
        arms=arms,
        contrasts=contrasts,
        expectations=_expectations(results.get("expectations", {}), contrasts, arms),
        cost={
            phase: _cost(entry, f"results.cost[{phase!r}]")
            for phase, entry in _optional(results, "cost").items()
        },
        arm_tokens=_arm_tokens(_optional(results, "arm_tokens"), arms),
        graph=_graph(fields.sequence(results.get("graph", ()), "results.graph")),
        curves=_curves(_optional(results, "curves")),
        samples=_samples(_optional(results, "samples")),
        gates=fields.strings(results.get("gates", ()), "results.gates"),
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
            f"{where}.sentence is no template ({error}); write {{points}} and {{direction}}"
        ) from error
    for field in sorted(named - {"points", "direction"}):
        raise InputError(
            f"{where}.sentence: unknown field {{{field}}}; the fields are {{points}} and {{direction}}"
        )
    return ContrastSpec(name, terms, sentence)


def _expectations(
    entries: Any, contrasts: Mapping[str, ContrastSpec], arms: Mapping[str, Mapping[str, Scores]]
) -> dict[str, Expectation]:
    evals = {name for scored in arms.values() for name in scored}
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


def _curves(entries: Mapping[str, Any]) -> dict[str, list[Mapping[str, float]]]:
    parsed = {}
    for label, points in entries.items():
        where = f"results.curves[{label!r}]"
        every = fields.sequence(points, where)
        parsed[label] = [fields.mapping(point, f"{where}[{i}]") for i, point in enumerate(every)]
        for i, point in enumerate(parsed[label]):
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


def _optional(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return fields.mapping(results.get(name, {}), f"results.{name}")
