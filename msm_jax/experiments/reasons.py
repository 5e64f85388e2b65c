"""The reason why a node runs: the difference between what it depends on and what an earlier result depended on."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msm_jax.experiments.nodes.interface import DONE, NODE, Address
from msm_jax.foundation import hashing, storage


def of_node(missing: Mapping[str, Address], is_whole: bool) -> str:
    """Returns why a node makes its missing results; `is_whole` says that all of its results are missing."""
    reasons: dict[str, list[str]] = {}
    for name, address in missing.items():
        reasons.setdefault(_of_result(address), []).append(name)
    if is_whole and len(reasons) == 1:
        return next(iter(reasons))
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def _of_result(address: Address) -> str:
    done = storage.find_json(address.path / DONE)
    if done is not None and done["hash"] == address.hash and (address.path / "checkpoints").is_dir():
        lacking = [str(step) for step in address.steps if not (address.path / "checkpoints" / str(step)).is_dir()]
        if lacking:
            return f"is trained again to step {', '.join(lacking)}"
    if (address.path / NODE).exists():
        return "continues" if (address.path / "checkpoints").is_dir() else "was not finished"
    earlier = _earlier(address)
    if not earlier:
        return "new"
    differences = [hashing.changes(stored, address.payload) for stored in earlier]
    return "; ".join(_in_words(min(differences, key=len))) or "its result was deleted"


def _earlier(address: Address) -> list[Mapping[str, Any]]:
    """Returns the payloads of stored results of the same id, newest first."""
    if address.path.suffix == ".json":
        checkpoint = address.path.parent.name.rpartition("-")[0]
        name = address.path.name.rpartition("-")[0]
        found: Iterable[Path] = address.path.parent.parent.glob(f"{checkpoint}-*/{name}-*.json")
    else:
        found = address.path.parent.glob(f"*/{NODE}")
    newest_first = sorted(found, key=lambda path: -path.stat().st_mtime)
    stored = [storage.find_json(path) for path in newest_first]
    return [entry["payload"] for entry in stored if entry is not None and entry.get("id") == address.id]


def _in_words(differences: list[tuple[str, Any, Any]]) -> list[str]:
    words = []
    for key, before, after in differences:
        head, _, rest = key.partition(".")
        if head in ("sources", "specs"):
            verb = "is new" if before is None else "was removed" if after is None else "changed"
            words.append(f"{head.removesuffix('s')} {rest} {verb}")
        elif head == "data":
            words.append(f"data changed: {rest}")
        elif head == "parent":
            words.append("the phase before it changed")
        elif head in ("tokenizer", "chat_template", "items", "texts", "checkpoint"):
            words.append(f"{head} changed")
        elif head == "versions":
            words.append(f"{rest} changed {before} -> {after}")
        else:
            words.append(f"{key} changed {_shown(before)} -> {_shown(after)}")
    return words


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)
