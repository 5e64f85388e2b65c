"""Drafts the augmented variants of a spec of rules: the same rules, with the values behind them, or with finer rules.

A draft is a beginning. Its rules are those of the spec, word for word. What stands between them is the writer's, and is
to be read and revised before anything is generated from it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Literal

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import storage
from msm_jax.specs.prose import Prose, Section
from msm_jax.synthesis import jobs, parsing, pipeline, prompts, writers
from msm_jax.synthesis.asking import Asker, Dropped, Question
from msm_jax.synthesis.budget import Budget
from msm_jax.synthesis.config import RunConfig, SpecConfig, WriterConfig, check_prices
from msm_jax.synthesis.jobs import Job
from msm_jax.synthesis.journal import Journal

Variant = Literal["value", "rule"]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Drafts of augmented specs; a file for `python -m msm_jax.augment`.

    Attributes:
        spec: a spec with numbered rules. Where `assistant` is "{assistant}", the drafts keep the variable.
        writer: the model that drafts.
        variants: "value" adds the values behind each rule, "rule" adds finer rules.
        words: the most words that are added to a section.
        tokens: the most tokens of a reply.
        run: how calls are made.
    """

    spec: SpecConfig
    writer: WriterConfig
    variants: tuple[Variant, ...] = ("value", "rule")
    words: int = 250
    tokens: int = 2048
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Refuses a cap in dollars without a price, and drafts of nothing."""
        check_prices(self.run, self.writers)
        if not self.variants or self.words < 1:
            raise InputError("variants and words: must not be empty or 0; there is nothing to draft otherwise")

    @property
    def writers(self) -> dict[str, WriterConfig]:
        """The models by role."""
        return {"writer": self.writer}


def run(config: AugmentConfig, directory: Path) -> list[Path]:
    """Writes `SPEC_VARIANT.md` into a directory for each variant, and returns their paths.

    Replies are kept in `journal.sqlite` there, so that a run that was interrupted continues.

    Raises:
        InputError: the spec or the writer is refused, the spec has no numbered rules, or the directory is that of
            another spec.
        WorkError: a cap is reached, the writer fails, or a section has no usable reply.
    """
    spec = pipeline.read_spec(config.spec)
    if not spec.principles:
        raise InputError(f"{config.spec.path}: has no numbered rules; begin each with an identifier, as in 'P1: …'")
    pipeline.check_writers(config.writers)
    journal = pipeline.opened_journal(directory / pipeline.JOURNAL, spec, config.spec.path)
    try:
        added = asyncio.run(_ask(config, spec, journal))
    finally:
        journal.close()
    paths = []
    for variant in config.variants:
        paths.append(directory / f"{Path(config.spec.path).stem}_{variant}.md")
        storage.write_text(paths[-1], combined(spec, {number: added[variant, number] for number in rules(spec)}))
    return paths


def rules(spec: Prose) -> dict[int, Section]:
    """Returns the sections that hold numbered rules, by their number."""
    named = {principle.section for principle in spec.principles}
    return {number: section for number, section in enumerate(spec.sections) if section.name in named}


def combined(spec: Prose, added: dict[int, str]) -> str:
    """Returns the text of a spec with additions below sections, {number of the section: addition}."""
    pieces, end = [], 0
    for number, section in enumerate(spec.sections):
        after = spec.text.index(section.text, end) + len(section.text)
        pieces.append(spec.text[end:after])
        end = after
        if number in added:
            pieces.append(f"\n\n{added[number]}")
    return "".join([*pieces, spec.text[end:]]).rstrip() + "\n"


async def _ask(config: AugmentConfig, spec: Prose, journal: Journal) -> dict[tuple[str, int], str]:
    """Returns what is added to each section, {(variant, number of the section): text}."""
    found: dict[tuple[str, int], str] = {}
    template, notes = prompts.load("augment"), prompts.entries("variants")
    async with pipeline.opened_writers(config.writers, config.run.concurrency) as models:
        names = {"writer": config.writer.model}
        asker = Asker(journal, models, names, Budget(config.run, journal), config.run)

        async def draft(variant: str, number: int, section: Section) -> tuple[Job, ...]:
            prompt = template.fill(
                variant=variant, variant_note=notes[variant], assistant=config.spec.assistant,
                provider=config.spec.provider, spec=spec.text, section=section.text, length=f"{config.words} words",
            )  # fmt: skip
            question = Question("augment", f"{variant}.s{number}", prompt, config.tokens)
            try:
                found[variant, number] = (await asker.ask(question, parsing.content)).value
            except Dropped as error:
                place = f'{config.spec.path}: section "{section.name}", variant {variant}'
                raise WorkError(f"{place}: {error.reason} ({error.detail}); run the same command again") from error
            return ()

        sections = rules(spec).items()
        await jobs.run(
            (Job(0, (index, number), draft, (variant, number, section))
             for index, variant in enumerate(config.variants) for number, section in sections),
            config.run.concurrency, writers.are_spread(config.writers),
        )  # fmt: skip
    return found
