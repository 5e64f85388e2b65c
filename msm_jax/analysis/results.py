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
          # Optional: the same items by other measures, in the form of `per_seed`; margins in nats may be any number.
          "measures": {"probability": [[...], ...], "nats": [[...], ...]},
          # Optional: what each item has in common with others, in any words: its cluster (a domain, a topic) and the
          # options that it compares. Items that share a label are not independent.
          "labels": [["domain: bread", "option: rye"], ...],
          "parse_rate": 0.98,                              # optional, for generated answers
          # Optional: further figures of the eval, means over seeds; `analysis.rates` says which of them warn.
          "rates": {"uses a tool": 0.7, "judge refused": 0.0},
          # Optional, of an eval that is a grid: the cell "ROW/COLUMN" of each item.
          "cells": ["leaking/america", ...],
          # Optional, of an eval whose score is a verdict: whether the concrete act is there too, as `per_seed`.
          "acts": [[...], ...],
          # Optional, of an eval of reasons: for each reason whether a transcript gives it, as `per_seed`.
          "reasons": {"equanimity": [[1, 0, None], ...]}}}},
      "codes": {eval: [{"id": reason, "definition": text, "harmful": bool}]},  # the code book of an eval of reasons
      "shared_arms": ["base"],                             # arms with one run for all seeds: one list in `per_seed`
      "chains": {arm: [phase, phase, ...]},                # the phases that each arm trains, in their order
      "midtraining": [phase, ...],                         # the phases of these chains that are midtraining
      "gates": [eval, ...],                                # evals that say whether the arms may be read at all
      "doses": {dose: {arm: other arm}},                   # the arm is the other arm with another dose of midtraining
      "generated": {eval: other eval},                     # the eval asks the other one's items for generated answers
      "contrasts": {name: fields of analysis.asked.ContrastSpec},
      "added": [contrast, ...],                            # contrasts that were asked for after there were results
      "expectations": {name: fields of analysis.asked.Expectation},
      "dose_curves": {name: fields of analysis.asked.CurveSpec},
      "reference": [fields of analysis.asked.Reference],   # what others have measured
      # Sums over the runs of a phase; "runs" is their number, 1 by default.
      "cost": {phase: {"tokens", "optimizer_steps", "flops", "wall_seconds", "device_seconds", "runs": 3}},
      # Where the seconds of these runs went.
      "goodput": {phase: {"startup", "compile", "data_wait", "step", "checkpoint", "evaluation", "trace", "lost"}},
      # Of one run, in the fields of `cost`: of its own phases, which are midtraining and what seeds do not share, and
      # of the whole chain.
      # `since` is the arm that ends where the own phases begin, "" without one.
      "arm_cost": {arm: {"own": {...}, "total": {...}, "since": arm}},
      "arm_tokens": {arm: {"last": n, "midtraining": n}},  # tokens of one run
      # Nodes of one kind and label are runs of the same thing in different seeds, shown together. The label of a phase
      # or of its evals is its chain, "pretrain/msm/sft".
      "graph": [{"id", "kind", "label", "parents": [id, ...], "status": "ran" | "reused", "seconds"}],
      "curves": {label: [[{"step", "loss", "learning_rate"?}, ...], ...]},     # one list of points per run
      "samples": {arm: {eval: [{"prompt": text or messages, "reply", "parsed"?, "score"?, ...}]}},
      # Files beside the report with every sample, and the log for `inspect view` where there is one, by seed.
      "files": {arm: {eval: [{"seed": "0", "samples": path, "log"?: path}]}},
      "warnings": ["..."],                                 # shown beside the warnings that the analysis finds
      "environment": {"jax": "0.10.2", ...}
    }

Only `experiment`, `seeds`, `arms` and `contrasts` are required. No meaning is read from the names of arms, phases and
evals.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import numpy as np

from msm_jax.analysis.asked import (
    ContrastSpec,
    CurveSpec,
    Expectation,
    Reference,
    check_contrasts,
    check_curves,
    check_expectations,
    check_references,
    refuse_unknown,
)
from msm_jax.analysis.dependence import Floats
from msm_jax.errors import InputError

Number = int | float


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one arm on one eval; see the module's docstring for the fields."""

    per_seed: tuple[Any, ...]  # each a tuple of numbers and None, or None; `Results` checks the many numbers at once
    item_ids: tuple[str, ...]
    parse_rate: float | None = None
    measures: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    labels: tuple[Any, ...] = ()  # each a tuple of texts
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cells: tuple[str, ...] = ()
    acts: tuple[Any, ...] = ()  # as `per_seed`
    reasons: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)  # each as `per_seed`

    @functools.cached_property
    def values_SN(self) -> Floats:
        """The scores `[seeds, items]`, or `[1, items]` for a shared run; NaN where a reply was not parsed."""
        return self.measured("share")

    def measured(self, measure: str) -> Floats:
        """Returns the items by a measure, in the form of `values_SN`; "share" is the score itself, and "act" the
        acts."""
        own = {"share": self.per_seed, "act": self.acts}
        return self._table(own[measure] if measure in own else self.measures[measure])

    def gives(self, reason: str) -> Floats:
        """Returns 1 for each item that gives a reason and 0 for the others, in the form of `values_SN`."""
        return self._table(self.reasons[reason])

    def _table(self, rows: tuple[Any, ...]) -> Floats:
        nothing = [math.nan] * len(self.item_ids)
        return np.array([nothing if row is None else row for row in rows], dtype=np.float64)

    @functools.cached_property
    def ran_S(self) -> np.ndarray:
        """Whether each seed has a run, bool `[seeds]`."""
        return np.array([row is not None for row in self.per_seed])


@dataclasses.dataclass(frozen=True)
class Cost:
    """Sums over the runs of a phase, and their number."""

    tokens: Number
    optimizer_steps: Number
    flops: Number
    wall_seconds: Number
    device_seconds: Number
    runs: Number = 1


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Where the seconds of all runs of a phase went; `lost` are those of steps that were done again after a restart."""

    startup: Number
    compile: Number
    data_wait: Number
    step: Number
    checkpoint: Number
    evaluation: Number
    trace: Number
    lost: Number


@dataclasses.dataclass(frozen=True)
class ArmCost:
    """What one run of an arm cost: its own phases, after those that all seeds share, and all of them.

    `since` is the arm that ends where the own phases begin, "" without one.
    """

    own: Cost
    total: Cost
    since: str = ""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What an arm reads in one run: in its last phase, unless that is midtraining, and in midtraining."""

    last: int = 0
    midtraining: int = 0


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the phase graph; the seeds of one node share its `label`."""

    id: str
    kind: str
    label: str
    parents: tuple[str, ...]
    status: Literal["ran", "reused"]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of an experiment; see the module's docstring for the fields."""

    experiment: str
    seeds: tuple[Mapping[str, Any], ...]
    arms: Mapping[str, Mapping[str, Scores]]
    contrasts: Mapping[str, ContrastSpec]
    question: str = ""
    scope: str = ""
    shared_arms: tuple[str, ...] = ()
    chains: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    midtraining: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    doses: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    generated: Mapping[str, str] = dataclasses.field(default_factory=dict)
    added: tuple[str, ...] = ()
    expectations: Mapping[str, Expectation] = dataclasses.field(default_factory=dict)
    dose_curves: Mapping[str, CurveSpec] = dataclasses.field(default_factory=dict)
    reference: tuple[Reference, ...] = ()
    cost: Mapping[str, Cost] = dataclasses.field(default_factory=dict)
    goodput: Mapping[str, Goodput] = dataclasses.field(default_factory=dict)
    arm_cost: Mapping[str, ArmCost] = dataclasses.field(default_factory=dict)
    arm_tokens: Mapping[str, Tokens] = dataclasses.field(default_factory=dict)
    graph: tuple[Node, ...] = ()
    curves: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    codes: Mapping[str, tuple[Mapping[str, Any], ...]] = dataclasses.field(default_factory=dict)
    samples: Mapping[str, Mapping[str, tuple[Mapping[str, Any], ...]]] = dataclasses.field(default_factory=dict)
    files: Mapping[str, Mapping[str, tuple[Mapping[str, str], ...]]] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that sizes agree and that every name refers to something.

        Raises:
            InputError: naming the field.
        """
        if not self.seeds:
            raise InputError("results.seeds is empty; an experiment has at least one seed")
        for arm, scored in self.arms.items():
            for name, scores in scored.items():
                runs = 1 if arm in self.shared_arms else len(self.seeds)
                _check_scores(scores, f"results.arms.{arm}.{name}", runs)
        evals = {name for scored in self.arms.values() for name in scored}
        trained = {phase for chain in self.chains.values() for phase in chain}
        refuse_unknown(self.midtraining, "results.midtraining", "phase", trained)
        refuse_unknown(self.gates, "results.gates", "eval", evals)
        for field in ("arm_cost", "arm_tokens"):
            refuse_unknown(getattr(self, field), f"results.{field}", "arm", self.arms)
        starts = [cost.since for cost in self.arm_cost.values() if cost.since]
        refuse_unknown(starts, "results.arm_cost: since", "arm", self.arms)
        check_doses(self.doses, "results.doses", {*self.arms, *self.chains})
        check_forms(self.generated, "results.generated", "eval", evals)
        measured = {arm: tuple(scored) for arm, scored in self.arms.items()}
        check_contrasts(self.contrasts, "results.", evals, measured)
        refuse_unknown(self.added, "results.added", "contrast", self.contrasts)
        for name, spec in self.contrasts.items():
            _check_scored(spec, f"results.contrasts.{name}", self.arms)
        check_curves(self.dose_curves, "results.dose_", evals, measured)
        check_references(self.reference, "results.", evals, self.arms)
        check_expectations(self.expectations, "results.", self.contrasts, evals, measured)
        nodes = {node.id for node in self.graph}
        for node in self.graph:
            refuse_unknown(node.parents, f"results.graph: parents of {node.id!r}", "node", nodes)
        for label, curves in self.curves.items():
            values = (point.get(name) for curve in curves for point in curve for name in ("step", "loss"))
            if not all(isinstance(value, Number) for value in values):
                raise InputError(f"results.curves.{label}: a point lacks step or loss, or one is not a number")
        for arm, sampled in self.samples.items():
            for name, samples in sampled.items():
                for field in ("prompt", "reply"):
                    if any(field not in sample for sample in samples):
                        raise InputError(f"results.samples.{arm}.{name}: a sample has no {field}; add it")

    def evals(self) -> list[str]:
        """Returns the names of the evals: those of the contrasts first, in their order; generated answers and gates
        last."""
        named = [spec.eval for spec in self.contrasts.values() if spec.eval]
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


def _check_scores(scores: Scores, where: str, runs: int) -> None:
    if not scores.item_ids:
        raise InputError(f"{where}.item_ids is empty; an eval has at least one item")
    refuse_unknown(scores.measures, f"{where}.measures", "measure", ("probability", "nats"))
    _check_rows(scores.per_seed, f"{where}.per_seed", runs, len(scores.item_ids))
    if len(scores.labels) not in (0, len(scores.item_ids)):
        counts = f"{len(scores.labels)} entries for {len(scores.item_ids)} item_ids"
        raise InputError(f"{where}.labels has {counts}; give one list per item")
    if any(not isinstance(row, tuple) or any(not isinstance(label, str) for label in row) for row in scores.labels):
        raise InputError(f"{where}.labels holds something else than lists of texts")
    if len(scores.cells) not in (0, len(scores.item_ids)):
        counts = f"{len(scores.cells)} entries for {len(scores.item_ids)} item_ids"
        raise InputError(f"{where}.cells has {counts}; give one per item")
    if scores.acts:
        _check_rows(scores.acts, f"{where}.acts", runs, len(scores.item_ids))
    for reason, rows in scores.reasons.items():
        _check_rows(rows, f"{where}.reasons.{reason}", runs, len(scores.item_ids))
    for measure, rows in scores.measures.items():
        _check_rows(rows, f"{where}.measures.{measure}", runs, len(scores.item_ids))
    for measure in {"share", *scores.measures} - {"nats"}:
        values_SN = scores.measured(measure)
        if np.any((values_SN < 0) | (values_SN > 1)):
            field = "per_seed" if measure == "share" else f"measures.{measure}"
            raise InputError(f"{where}.{field} holds a score outside [0, 1]; scores are shares or probabilities")


def _check_rows(rows: tuple[Any, ...], where: str, runs: int, items: int) -> None:
    if len(rows) != runs:
        raise InputError(
            f"{where} has {len(rows)} entries where {runs} are needed: one for each seed (None for a seed without a "
            "run), or one for all seeds in a shared arm"
        )
    for i, row in enumerate(rows):
        if row is None:
            continue
        if not isinstance(row, tuple) or any(not isinstance(score, int | float | None) for score in row):
            raise InputError(f"{where}[{i}] is not a list of numbers and None")
        if len(row) != items:
            raise InputError(f"{where}[{i}] has {len(row)} scores for {items} item_ids; give one per item")


def _check_scored(spec: ContrastSpec, where: str, arms: Mapping[str, Mapping[str, Scores]]) -> None:
    if len({arms[arm][spec.eval].item_ids for arm in spec.arms()}) > 1:
        raise InputError(f"{where}: its arms were scored on different items of {spec.eval!r}; score the same")
    for arm in spec.arms():
        if spec.measure != "share" and spec.measure not in arms[arm][spec.eval].measures:
            raise InputError(f"{where}.measure: {arm!r} has no {spec.measure} on {spec.eval!r}; run the eval again")


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
