"""Puts the files of a run through the quality gates: what passes stays, and the rest goes to `flagged.jsonl`.

The page of a corpus also shows what did not come as far as the gates: replies that could not be used.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.analysis import quality_page
from msm_jax.data import sources
from msm_jax.errors import WorkError
from msm_jax.foundation import storage
from msm_jax.synthesis.quality.check import check
from msm_jax.synthesis.quality.config import Context, QualityConfig

FLAGGED = "flagged.jsonl"
DROPPED = "dropped.jsonl"
# Of replies that could not be used, how many of each reason the page shows, and how much of each.
_EXAMPLES = 3
_CHARACTERS = 600


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Files that the gates judge together.

    Attributes:
        files: their names. The first one is judged; the others hold the same rows in another form, and lose the same.
        context: what the gates must know of them.
        pages: the directory below that of the run in which quality.json and quality.html go; "" for that of the run.
    """

    files: tuple[str, ...]
    context: Context
    pages: str = ""


@dataclasses.dataclass(frozen=True)
class Gated:
    """What the gates did: rows kept by file, rows flagged by reason, and the assertions of the first corpus' rows."""

    kept: Mapping[str, int]
    flagged: Mapping[str, int]
    assertions: Mapping[str, int]
    files: tuple[str, ...]


def refuse(config: QualityConfig, corpora: Sequence[Corpus]) -> None:
    """Refuses settings and item files with which the gates cannot run, before anything is called.

    Raises:
        InputError: a setting is wrong, an item file cannot be read, or the embedding model is missing.
    """
    for corpus in corpora:
        check((), config, corpus.context)


def eval_hashes(config: QualityConfig, evals: Sequence[str]) -> dict[str, str]:
    """Returns {data path: SHA-256} of the item files that no text may overlap with."""
    return {path: sources.data_sha256(path) for path in (*config.evals, *evals)}


def apply(config: QualityConfig, corpora: Sequence[Corpus], directory: Path) -> Gated:
    """Judges the files of a run, and removes from them what must not be used.

    Flagged rows go to `flagged.jsonl`, with their reasons in `meta`. Where a corpus as a whole must not be used, all
    of its
    rows go there and its files are removed.

    Raises:
        WorkError: a corpus is stopped; the message says why, and names its page.
    """
    kept, flagged, assertions, stopped = Counter[str](), Counter[str](), Counter[str](), list[str]()
    with storage.new_file(directory / FLAGGED) as out:
        for corpus in corpora:
            pages = directory / corpus.pages
            quality = check(_rows(directory / corpus.files[0]), config, corpus.context)
            quality_page.write({**quality.report, "dropped": _dropped(directory, corpus)}, pages)
            if quality.stopped:
                stopped.append(f"{corpus.files[0]}: {'; '.join(quality.stopped)}; see {pages / 'quality.html'}")
            for row, reasons in zip(_rows(directory / corpus.files[0]), quality.verdicts, strict=True):
                if reasons or quality.stopped:
                    flagged.update(reasons or ("stopped",))
                    out.write(_line({**row, "meta": {**row["meta"], "reasons": list(reasons or ("stopped",))}}))
                elif corpus is corpora[0]:
                    assertions.update(row["meta"].get("assertions", ()))
            for name in corpus.files:
                if quality.stopped:
                    (directory / name).unlink()
                else:
                    kept[name] = _keep(directory / name, quality.verdicts)
    if stopped:
        raise WorkError(f"the gates stop {' | '.join(stopped)}; mend the spec or the prompts, or set gates.stop")
    written = [Path(corpus.pages, name).as_posix() for corpus in corpora for name in ("quality.json", "quality.html")]
    return Gated(kept, flagged, assertions, (*written, FLAGGED))


def explain(config: QualityConfig, corpora: Sequence[Corpus], directory: Path) -> Path:
    """Writes the pages of a run of which no reply could be used, and returns the first; its empty files are removed."""
    for corpus in corpora:
        quality = check((), config, corpus.context)
        quality_page.write({**quality.report, "dropped": _dropped(directory, corpus)}, directory / corpus.pages)
        for name in corpus.files:
            (directory / name).unlink()
    return directory / corpora[0].pages / "quality.html"


def _dropped(directory: Path, corpus: Corpus) -> list[dict[str, Any]]:
    """Returns what was dropped before the gates: {"stage", "reason", "rows", "examples": [{"id", "note", "excerpt"}]}.

    What could not be planned is told of every corpus of the plan.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _rows(directory / DROPPED):
        if row["meta"].get("corpus", corpus.context.name) != corpus.context.name:
            continue
        place = row["stage"], row["reason"]
        group = found.setdefault(place, {"stage": place[0], "reason": place[1], "rows": 0, "examples": []})
        group["rows"] += 1
        if len(group["examples"]) < _EXAMPLES:
            excerpt = row["reply"][:_CHARACTERS] + (" …" if len(row["reply"]) > _CHARACTERS else "")
            group["examples"].append({"id": row["id"], "note": row["detail"], "excerpt": excerpt})
    return sorted(found.values(), key=lambda group: -group["rows"])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _keep(path: Path, verdicts: Sequence[Sequence[str]]) -> int:
    """Removes the lines with reasons from a file, and returns how many are left."""
    count = 0
    with storage.new_file(path) as out, path.open(encoding="utf-8") as file:
        for line, reasons in zip(file, verdicts, strict=True):
            if not reasons:
                out.write(line)
                count += 1
    return count


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
