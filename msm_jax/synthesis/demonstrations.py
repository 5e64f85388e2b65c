"""Generates demonstrations from a spec: conversations that a judge passes, in rounds until there are enough.

A round asks for questions, leaves out those that are like earlier ones, has each answered and judged, and counts. The
next round asks for as many as are missing, divided by the share that passed so far. All that is asked lies in the
journal; so a run that was interrupted anywhere goes through the same rounds again from disk, and then on.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.foundation import hashing, settings, storage
from msm_jax.specs.prose import Prose, units
from msm_jax.synthesis import distinct, gating, identity, jobs, pipeline, prompts, writers
from msm_jax.synthesis.asking import Asker, Dropped
from msm_jax.synthesis.budget import Budget
from msm_jax.synthesis.chat_config import DemonstrationsConfig
from msm_jax.synthesis.conversations import Opening, Speaker
from msm_jax.synthesis.jobs import Job
from msm_jax.synthesis.journal import Journal
from msm_jax.synthesis.openings import Openings
from msm_jax.synthesis.pipeline import Report
from msm_jax.synthesis.progress import Meter

WITH_THINKING = "demonstrations.jsonl"
WITHOUT_THINKING = "demonstrations_no_thinking.jsonl"
IDENTITY = "identity.jsonl"
DROPPED = pipeline.DROPPED
_STAGES = (
    "conversation_domains", "questions", "follow_up", "response", "judge", "identity",
    "answer_styles", "question_styles", "criteria",
)  # fmt: skip
# A pass rate below this is taken for this, so that a round stays of a size that one can watch.
_LEAST_RATE = 0.1


def run(
    config: DemonstrationsConfig,
    directory: Path,
    journal_path: Path,
    report: Report,
    every_seconds: float = 10.0,
    evals: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the files of demonstrations into a directory, and returns the content of its `result.json`.

    The files are `demonstrations.jsonl`, with the assistant's thinking as "reasoning_content", the same without it,
    `identity.jsonl`, `dropped.jsonl` (each conversation that was begun and not kept, with its reason), `flagged.jsonl`
    (what the gates removed), `quality.json`, `quality.html`, `config.json` and `result.json`. Where all of them are
    there, nothing is called.

    Args:
        config: the settings.
        directory: for the files.
        journal_path: of the replies; they may be those of other runs with the same spec.
        report: takes the progress.
        every_seconds: how often it does.
        evals: data paths of item files that no text may overlap with, beside those of the gates' settings.

    Raises:
        InputError: the spec or a writer is refused, or the journal or the directory belongs to another spec.
        WorkError: a cap is reached, a writer fails for good, or no demonstration passed; the message says what was kept
            and how to go on.
    """
    spec = pipeline.read_spec(config.spec)
    name = fingerprint(config, spec)

    async def work(journal: Journal) -> dict[str, Any]:
        budget = Budget(config.run, journal)
        names = {role: writers.identity(writer) for role, writer in config.writers.items()}
        async with pipeline.opened_writers(config.writers, config.run.concurrency) as models:
            meter = Meter(budget, report, every_seconds)
            asker = Asker(journal, models, names, budget, config.run, meter.tick)
            maker = _Maker(config, spec, asker, meter)
            rounds = await maker.make()
            made = await maker.write(directory)
        report(meter.now())
        return {"rounds": rounds, **made, **pipeline.spending(asker, journal, budget)}

    context = pipeline.context_of(config, spec, "demonstrations", "demonstrations", evals)
    corpora = [gating.Corpus((WITH_THINKING, WITHOUT_THINKING), context)]
    return pipeline.once(config, spec, name, directory, journal_path, corpora, work)


def fingerprint(config: DemonstrationsConfig, spec: Prose) -> str:
    """Returns the hash of all that decides the files: the settings but how calls are made, the spec, the prompts."""
    fields = settings.to_json(config)
    fields["run"] = {name: fields["run"][name] for name in ("seed", "attempts")}
    del fields["spec"]["path"]
    templates = {name: prompts.load(name).sha256 for name in _STAGES}
    return hashing.digest({"config": fields, "spec": spec.sha256, "prompts": templates})


class _Maker:
    """Goes through the rounds, and puts what they have made into files."""

    def __init__(self, config: DemonstrationsConfig, spec: Prose, asker: Asker, meter: Meter) -> None:
        plan = config.plan
        self.config, self.spec, self.asker, self.meter = config, spec, asker, meter
        self.speaker = Speaker(spec, units(spec, config.spec.words), config, asker)
        self.openings = Openings(self.speaker, distinct.recogniser(plan.embeddings, plan.cosine))
        self.opened: list[Opening] = []
        self.passed: set[str] = set()
        self.dropped: dict[str, Dropped] = {}

    async def make(self) -> int:
        """Asks, answers and judges until there are enough or the writer has no more, and returns the number of
        rounds."""
        plan, rounds = self.config.plan, 0
        self.meter.planned = plan.samples
        while len(self.passed) < plan.samples and rounds < plan.most_rounds:
            # The share that passed, with one more on each side, so that a small first round does not decide alone.
            rate = max((len(self.passed) + 1) / (len(self.opened) + 1), _LEAST_RATE)
            found = await self.openings.more(math.ceil((plan.samples - len(self.passed)) / rate))
            if not found:
                break
            rounds += 1
            self.opened += found
            talks = (Job(0, _place(each), self._answer, (each,)) for each in found)
            await jobs.run(talks, self.config.run.concurrency, writers.are_spread(self.config.writers))
        return rounds

    async def _answer(self, opening: Opening) -> tuple[Job, ...]:
        try:
            await self.speaker.row(opening)
        except Dropped as dropped:
            self.dropped[opening.id] = dropped
        else:
            self.passed.add(opening.id)
            self.meter.done += 1
        return ()

    async def write(self, directory: Path) -> dict[str, Any]:
        """Writes the files, whose rows are made again from the journal, and returns their counts and names."""
        kept = [each for each in self.opened if each.id in self.passed][: self.config.plan.samples]
        with (
            storage.new_file(directory / WITH_THINKING) as thinking,
            storage.new_file(directory / WITHOUT_THINKING) as plain,
        ):
            for each in kept:
                row = await self.speaker.row(each)
                thinking.write(_line(row))
                plain.write(_line(_without_thinking(row)))
        # A writer of which no conversation passed is not asked for more.
        exchanges, lost = await identity.rows(self.spec, self.config, self.asker) if kept else ([], [])
        counts = {WITH_THINKING: len(kept), WITHOUT_THINKING: len(kept)}
        if self.config.identity.samples:
            counts[IDENTITY] = len(exchanges)
            storage.write_text(directory / IDENTITY, "".join(map(_line, exchanges)))
        reasons: Counter[str] = Counter()
        with storage.new_file(directory / DROPPED) as file:
            for row in self._dropped(lost):
                reasons[row["reason"]] += 1
                file.write(_line(row))
        storage.write_json(directory / "config.json", settings.to_json(self.config))
        return {
            "planned": self.config.plan.samples,
            "written": {name.removesuffix(".jsonl"): count for name, count in counts.items()},
            "answered": len(self.opened),
            "duplicate_questions": self.openings.duplicates,
            "dropped": dict(reasons),
            "files": (*counts, DROPPED),
        }

    def _dropped(self, lost: Sequence[Dropped]) -> Iterator[dict[str, Any]]:
        for call in sorted([*self.openings.dropped, *lost], key=lambda each: (each.stage, each.item)):
            yield call.row({})
        for each in self.opened:
            if error := self.dropped.get(each.id):
                meta = {"domain": each.domain.name, "question": each.text, "question_type": each.kind}
                yield error.row(meta, each.id)


def _without_thinking(row: Mapping[str, Any]) -> dict[str, Any]:
    messages = [{"role": each["role"], "content": each["content"]} for each in row["messages"]]
    return {**row, "messages": messages}


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _place(opening: Opening) -> tuple[int, ...]:
    return opening.domain.number, opening.number
