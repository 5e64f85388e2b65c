"""Generates the documents of a spec: plans and writes them, then puts them into files in the order of the plan.

What is asked lies in the journal, and the files are made from it when all is answered: in the order of the plan,
whatever the order in which replies arrived. A run that was interrupted anywhere goes on from the journal.
"""

import asyncio
import contextlib
import dataclasses
import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing, settings, storage
from msm_jax.sampling.model import Model
from msm_jax.specs import prose
from msm_jax.specs.prose import Prose
from msm_jax.synthesis import gating, jobs, plan, planning, prompts, writers
from msm_jax.synthesis.asking import Asker, Dropped, WriterStopped
from msm_jax.synthesis.budget import Budget, CapReached
from msm_jax.synthesis.config import Corpus, DocumentsConfig, Settings, SpecConfig, WriterConfig
from msm_jax.synthesis.documents import Author
from msm_jax.synthesis.jobs import Job
from msm_jax.synthesis.journal import Journal
from msm_jax.synthesis.plan import Slot
from msm_jax.synthesis.planning import Planner
from msm_jax.synthesis.progress import Meter, Progress
from msm_jax.synthesis.quality.config import Context, Kind

JOURNAL = "journal.sqlite"
RESULT = "result.json"
DROPPED = gating.DROPPED
COVERAGE = "coverage.json"
# The files of `prompts/` that decide documents.
DOCUMENT_PROMPTS = (
    "domains", "subdomains", "assertions", "document_types", "ideas", "document", "document_neutral", "critique",
    "rewrite", "styles", "corpora", "modes",
)  # fmt: skip

Report = Callable[[Progress], object]
Work = Callable[[Journal], Coroutine[Any, Any, dict[str, Any]]]

def run(
    config: DocumentsConfig,
    directory: Path,
    journal_path: Path,
    report: Report,
    every_seconds: float = 10.0,
    evals: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the files of a corpus into a directory, and returns the content of its `result.json`.

    The files are `CORPUS.jsonl` for each corpus of the settings, `dropped.jsonl` (each item of the plan that has no
    text, with its reason), `flagged.jsonl` (what the gates removed), `coverage.json`, `quality.json`, `quality.html`,
    `config.json` and `result.json`. Where all of them are there, nothing is called.

    Args:
        config: the settings.
        directory: for the files.
        journal_path: of the replies; they may be those of other runs with the same spec.
        report: takes the progress.
        every_seconds: how often it does.
        evals: data paths of item files that no text may overlap with, beside those of the gates' settings.

    Raises:
        InputError: the spec, a writer or the gates' settings are refused, or the journal or the directory belongs to
            another spec.
        WorkError: a cap is reached, a writer fails for good, nothing could be planned, no reply could be used, or the
            gates stop the corpus; the message says what was kept and how to go on.
    """
    spec = read_spec(config.spec)
    corpora = [
        gating.Corpus((f"{name}.jsonl",), context_of(config, spec, "documents", name, evals), name if number else "")
        for number, name in enumerate(config.text.corpora)
    ]
    return once(config, spec, fingerprint(config, spec), directory, journal_path, corpora, lambda journal: _run(
        config, spec, directory, journal, report, every_seconds
    ))  # fmt: skip


def context_of(config: Settings, spec: Prose, kind: Kind, name: str, evals: Sequence[str]) -> Context:
    """Returns what the gates must know of a corpus; neutral documents have no assistant."""
    assistant, provider = ("", "") if name == "neutral" else (config.spec.assistant, config.spec.provider)
    ids = frozenset(each.id for each in spec.principles)
    return Context(kind, name, assistant, provider, spec.text, ids, tuple(evals))


def once(
    config: Settings,
    spec: Prose,
    name: str,
    directory: Path,
    journal_path: Path,
    corpora: Sequence[gating.Corpus],
    work: Work,
) -> dict[str, Any]:
    """Does the work of a run unless its result is there, writes the result and returns it.

    Args:
        config: the settings.
        spec: the spec that they name.
        name: the hash of everything that decides the files.
        directory: for the files.
        journal_path: of the replies.
        corpora: the files that the gates judge.
        work: writes the files, and returns what the result says of them: "written" by file, "files", and so on.

    Raises:
        InputError, WorkError: as `run`.
    """
    gates = config.gates
    if gates is not None:
        hashes = [gating.eval_hashes(gates, corpus.context.evals) for corpus in corpora]
        name = hashing.digest([name, hashes])
    done = storage.find_json(directory / RESULT)
    if done is not None and done["spec_sha256"] != spec.sha256:
        raise InputError(f"{directory}: holds the texts of another spec, {done['spec']}; choose another directory")
    if done is not None and done["fingerprint"] == name and _is_whole(directory, done["files"]):
        return done
    check_writers(config.writers)
    if gates is not None:
        gating.refuse(gates, corpora)
    journal = opened_journal(journal_path, spec, config.spec.path)
    try:
        with _without_long_pauses():
            made = asyncio.run(work(journal))
    except (CapReached, WriterStopped) as error:
        kept = sum(calls for calls, _, _ in journal.spent().values())
        hint = "raise the cap" if isinstance(error, CapReached) else "mend what it names"
        raise WorkError(
            f"{error}; {kept:,} replies are kept in {journal_path}: {hint}, and run the same command again to continue"
        ) from error
    finally:
        journal.close()
    files = made.pop("files")
    if not any(made["written"].get(Path(corpus.files[0]).stem) for corpus in corpora):
        page = gating.explain(gates, corpora, directory) if gates else directory / DROPPED
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(made["dropped"].items()))
        raise WorkError(f"no reply of {config.writers['writer'].model} could be used ({why}); see {page}")
    if gates is not None:
        gated = gating.apply(gates, corpora, directory)
        made["kept"] = {Path(file).stem: count for file, count in gated.kept.items()}
        made["flagged"] = dict(gated.flagged)
        files = (*files, *gated.files)
        if COVERAGE in files:
            rows = storage.read_json(directory / COVERAGE)
            kept_by = [{**row, "kept": gated.assertions.get(row["id"], 0)} for row in rows]
            storage.write_json(directory / COVERAGE, kept_by)
    made["files"] = {file: hashing.file_sha256(directory / file) for file in files}
    result = {"fingerprint": name, "spec": config.spec.path, "spec_sha256": spec.sha256, **made}
    storage.write_json(directory / RESULT, result)
    return result


@contextlib.contextmanager
def _without_long_pauses() -> Iterator[None]:
    """Keeps what is in memory so far out of the collections of garbage.

    The modules of Inspect and JAX are some 300,000 objects. To go through them takes 0.3 s of computing, in which no
    reply is read and no call is made.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def read_spec(config: SpecConfig) -> Prose:
    """Returns the spec of the settings with its variables filled in.

    Raises:
        InputError: it cannot be used.
    """
    return prose.read(config.path, config.values)


def check_writers(configs: dict[str, WriterConfig]) -> None:
    """Refuses writers that cannot be asked.

    Raises:
        InputError: names the role, and what is missing.
    """
    for role, writer in configs.items():
        writers.check(writer, role)


def opened_journal(path: Path, spec: Prose, name: str) -> Journal:
    """Opens the journal of a spec.

    Raises:
        InputError: the journal is another spec's.
    """
    journal = Journal(path)
    first = json.loads(journal.fact("spec", json.dumps([spec.sha256, name])))
    if first[0] != spec.sha256:
        journal.close()
        place = f"{path.parent}: holds replies about another spec or another text of it, {first[1]}"
        raise InputError(f"{place}; choose another directory")
    return journal


def fingerprint(config: DocumentsConfig, spec: Prose) -> str:
    """Returns the hash of everything that decides the files: the settings but how calls are made, the spec, the
    prompts."""
    fields = settings.to_json(config)
    fields["run"] = {name: fields["run"][name] for name in ("seed", "attempts")}
    del fields["spec"]["path"]
    templates = {name: prompts.load(name).sha256 for name in DOCUMENT_PROMPTS}
    return hashing.digest({"config": fields, "spec": spec.sha256, "prompts": templates})


@contextlib.asynccontextmanager
async def opened_writers(configs: dict[str, WriterConfig], concurrency: int) -> AsyncIterator[dict[str, Model]]:
    """Yields the writers by role."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            role: await stack.enter_async_context(writers.opened(config, concurrency, role))
            for role, config in configs.items()
        }


async def _run(
    config: DocumentsConfig,
    spec: Prose,
    directory: Path,
    journal: Journal,
    report: Report,
    every_seconds: float,
) -> dict[str, Any]:
    budget = Budget(config.run, journal)
    names = {role: writers.identity(writer) for role, writer in config.writers.items()}
    async with opened_writers(config.writers, config.run.concurrency) as models:
        meter = Meter(budget, report, every_seconds)
        asker = Asker(journal, models, names, budget, config.run, meter.tick)
        drafts = planning.start(spec, config)
        author = Author(drafts, config, asker)

        async def text(slot: Slot, corpus: Corpus) -> tuple[Job, ...]:
            with contextlib.suppress(Dropped):  # it is asked again, from the journal, when the files are made
                await author.row(slot, corpus)
            meter.done += 1
            return ()

        def texts(slots: Sequence[Slot]) -> Iterator[Job]:
            for slot in slots:
                for index, corpus in enumerate(config.text.corpora):
                    meter.planned += 1
                    yield Job(planning.TEXTS, (*slot.subdomain.place, slot.number, index), text, (slot, corpus))

        planned = Planner(drafts, config, asker, texts).first()
        await jobs.run(planned, config.run.concurrency, writers.are_spread(config.writers))
        report(meter.now())
        if not drafts.count(config):
            raise WorkError(f"{config.spec.path}: no documents could be planned: {_first_reason(drafts)}")
        files = await _Files(config, drafts, author, directory).write()
    return {**files, **spending(asker, journal, budget)}


def spending(asker: Asker, journal: Journal, budget: Budget) -> dict[str, Any]:
    """Returns what a run's result says of its calls: replies that were not usable, tokens, dollars."""
    unusable = Counter(f"{stage}/{reason}" for (stage, _, _), reason in asker.unusable.items())
    names = ("calls", "input_tokens", "output_tokens")
    spent = {model: dict(zip(names, counts, strict=True)) for model, counts in journal.spent().items()}
    return {"unusable_replies": dict(sorted(unusable.items())), "spent": spent, "dollars": budget.dollars}


def _first_reason(drafts: plan.Plan) -> str:
    for error in drafts.dropped.values():
        return f"{error.stage} of {error.item}: {error.reason} ({error.detail})"
    return "the writer found no assertions in it"


@dataclasses.dataclass(frozen=True)
class _Files:
    """Puts the documents into files, one at a time."""

    config: DocumentsConfig
    drafts: plan.Plan
    author: Author
    directory: Path

    async def write(self) -> dict[str, Any]:
        """Writes the files and returns their counts and names."""
        config, drafts = self.config, self.drafts
        written, shown, reasons = Counter[str](), Counter[str](), Counter[str]()
        with storage.new_file(self.directory / DROPPED) as dropped:

            def drop(error: Dropped, meta: Mapping[str, Any], item: str = "") -> None:
                reasons[error.reason] += 1
                dropped.write(_line(error.row(meta, item)))

            for _, error in sorted(drafts.dropped.items()):
                drop(error, {})
            for corpus in config.text.corpora:
                with storage.new_file(self.directory / f"{corpus}.jsonl") as file:
                    for slot in _slots(drafts, config):
                        meta = {"corpus": corpus, "assertions": [each.id for each in slot.assertions]}
                        if slot.idea is None:
                            drop(Dropped("ideas", slot.id, "no_idea", "the writer had no idea for it"), meta)
                            continue
                        try:
                            row = await self.author.row(slot, corpus)
                        except Dropped as error:
                            drop(error, meta, slot.id)
                            continue
                        file.write(_line(row))
                        written[corpus] += 1
                        if corpus == config.text.corpora[0]:
                            shown.update(row["meta"]["assertions"])
        storage.write_json(self.directory / COVERAGE, plan.coverage(drafts, config, shown))
        storage.write_json(self.directory / "config.json", settings.to_json(config))
        names = [*(f"{corpus}.jsonl" for corpus in config.text.corpora), DROPPED, COVERAGE]
        return {
            "planned": drafts.count(config),
            "written": dict(written),
            "dropped": dict(reasons),
            "files": tuple(names),
        }


def _slots(drafts: plan.Plan, config: DocumentsConfig) -> Iterator[Slot]:
    for subdomain in drafts.in_order():
        yield from subdomain.slots(config)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _is_whole(directory: Path, files: dict[str, str]) -> bool:
    paths: Iterable[tuple[Path, str]] = ((directory / name, sha256) for name, sha256 in files.items())
    return all(path.is_file() and hashing.file_sha256(path) == sha256 for path, sha256 in paths)
