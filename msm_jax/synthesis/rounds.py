"""Makes rows from conversations that are judged, in rounds until there are enough.

A round asks for questions, leaves out those that are like earlier ones, has a row made of each, and counts those that
pass. The next round asks for as many as are missing, divided by the share that passed so far. All that is asked lies in
the journal; so a run that was interrupted anywhere goes through the same rounds again from disk, and then on.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_jax.foundation import hashing, settings, storage
from msm_jax.specs.prose import Prose, units
from msm_jax.synthesis import distinct, gating, jobs, pipeline, prompts, writers
from msm_jax.synthesis.asking import Asker, Dropped
from msm_jax.synthesis.budget import Budget
from msm_jax.synthesis.chat_config import TalksConfig
from msm_jax.synthesis.conversations import Opening, Speaker
from msm_jax.synthesis.jobs import Job
from msm_jax.synthesis.journal import Journal
from msm_jax.synthesis.openings import Openings
from msm_jax.synthesis.pipeline import Report
from msm_jax.synthesis.progress import Meter

DROPPED = pipeline.DROPPED
# A pass rate below this is taken for this, so that a round stays of a size that one can watch.
_LEAST_RATE = 0.1

Row = dict[str, Any]


@dataclass(frozen=True)
class Product:
    """What is made of conversations.

    Attributes:
        name: of the rows, for the page of the gates.
        files: the files that the gates judge; of several, the first one is read, and all lose the same rows.
        stages: the files of `prompts/` that decide the rows.
        row: returns the row of a conversation with this opening, or raises `Dropped`. It is asked again when the files
            are written, and answers from the journal then.
        write: writes the files but for `dropped.jsonl` into a directory; returns the rows written by file, and the
            calls that gave nothing.
    """

    name: str
    files: tuple[str, ...]
    stages: tuple[str, ...]
    row: Callable[[Speaker, Opening], Awaitable[Row]]
    write: Callable[[Rounds, Path], Awaitable[tuple[dict[str, int], Sequence[Dropped]]]]


def run(
    product: Product,
    config: TalksConfig,
    directory: Path,
    journal_path: Path,
    report: Report,
    every_seconds: float = 10.0,
    evals: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the files of a product into a directory, and returns the content of its `result.json`.

    Beside the product's own files there are `dropped.jsonl` (each conversation that was begun and not kept, with its
    reason), `flagged.jsonl` (what the gates removed), `quality.json`, `quality.html`, `config.json` and `result.json`.
    Where all of them are there, nothing is called.

    Args:
        product: what is made.
        config: the settings.
        directory: for the files.
        journal_path: of the replies; they may be those of other runs with the same spec.
        report: takes the progress.
        every_seconds: how often it does.
        evals: data paths of item files that no text may overlap with, beside those of the gates' settings.

    Raises:
        InputError: the spec or a writer is refused, or the journal or the directory belongs to another spec.
        WorkError: a cap is reached, a writer fails for good, or nothing passed; the message says what was kept and how
            to go on.
    """
    spec = pipeline.read_spec(config.spec)

    async def work(journal: Journal) -> dict[str, Any]:
        budget = Budget(config.run, journal)
        names = {role: writers.identity(writer) for role, writer in config.writers.items()}
        async with pipeline.opened_writers(config.writers, config.run.concurrency) as models:
            meter = Meter(budget, report, every_seconds)
            asker = Asker(journal, models, names, budget, config.run, meter.tick)
            made = Rounds(product, Speaker(spec, units(spec, config.spec.words), config, asker), meter)
            rounds = await made.make()
            written = await made.write(directory)
        report(meter.now())
        return {"rounds": rounds, **written, **pipeline.spending(asker, journal, budget)}

    context = pipeline.context_of(config, spec, "demonstrations", product.name, evals)
    corpora = [gating.Corpus(product.files, context)]
    name = fingerprint(product, config, spec)
    return pipeline.once(config, spec, name, directory, journal_path, corpora, work)


def fingerprint(product: Product, config: TalksConfig, spec: Prose) -> str:
    """Returns the hash of all that decides the files: the settings but how calls are made, the spec, the prompts."""
    fields = settings.to_json(config)
    fields["run"] = {name: fields["run"][name] for name in ("seed", "attempts")}
    del fields["spec"]["path"]
    templates = {name: prompts.load(name).sha256 for name in product.stages}
    return hashing.digest({"config": fields, "spec": spec.sha256, "prompts": templates})


class Rounds:
    """Goes through the rounds, and puts what they have made into files."""

    def __init__(self, product: Product, speaker: Speaker, meter: Meter) -> None:
        """Takes who leads the conversations, and what counts the rows that passed."""
        plan = speaker.config.plan
        self.speaker = speaker
        self._product, self._meter = product, meter
        self._openings = Openings(speaker, distinct.recogniser(plan.embeddings, plan.cosine))
        self._opened: list[Opening] = []
        self._passed: set[str] = set()
        self._dropped: dict[str, Dropped] = {}

    async def make(self) -> int:
        """Makes rows until there are enough or the writer has no more, and returns the number of rounds."""
        config, rounds = self.speaker.config, 0
        plan = config.plan
        self._meter.planned = plan.samples
        while len(self._passed) < plan.samples and rounds < plan.most_rounds:
            # The share that passed, with one more on each side, so that a small first round does not decide alone.
            rate = max((len(self._passed) + 1) / (len(self._opened) + 1), _LEAST_RATE)
            found = await self._openings.more(math.ceil((plan.samples - len(self._passed)) / rate))
            if not found:
                break
            rounds += 1
            self._opened += found
            talks = (Job(0, _place(each), self._try, (each,)) for each in found)
            await jobs.run(talks, config.run.concurrency, writers.are_spread(config.writers))
        return rounds

    async def _try(self, opening: Opening) -> tuple[Job, ...]:
        try:
            await self._product.row(self.speaker, opening)
        except Dropped as dropped:
            self._dropped[opening.id] = dropped
        else:
            self._passed.add(opening.id)
            self._meter.done += 1
        return ()

    async def rows(self) -> AsyncIterator[Row]:
        """Yields as many of the rows that passed as are planned, in the order of the plan, from the journal."""
        for each in [each for each in self._opened if each.id in self._passed][: self.speaker.config.plan.samples]:
            yield await self._product.row(self.speaker, each)

    async def write(self, directory: Path) -> dict[str, Any]:
        """Writes the files, and returns their counts and names."""
        counts, lost = await self._product.write(self, directory)
        reasons: Counter[str] = Counter()
        with storage.new_file(directory / DROPPED) as file:
            for row in self._dropped_rows(lost):
                reasons[row["reason"]] += 1
                file.write(line(row))
        storage.write_json(directory / "config.json", settings.to_json(self.speaker.config))
        return {
            "planned": self.speaker.config.plan.samples,
            "written": {name.removesuffix(".jsonl"): count for name, count in counts.items()},
            "answered": len(self._opened),
            "duplicate_questions": self._openings.duplicates,
            "dropped": dict(reasons),
            "files": (*counts, DROPPED),
        }

    def _dropped_rows(self, lost: Sequence[Dropped]) -> Iterator[Row]:
        for call in sorted([*self._openings.dropped, *lost], key=lambda each: (each.stage, each.item)):
            yield call.row({})
        for each in self._opened:
            if error := self._dropped.get(each.id):
                meta = {"domain": each.domain.name, "question": each.text, "question_type": each.kind}
                yield error.row(meta, each.id)


def line(row: Mapping[str, Any]) -> str:
    """Returns a row as a line of JSONL."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def _place(opening: Opening) -> tuple[int, ...]:
    return opening.domain.number, opening.number
