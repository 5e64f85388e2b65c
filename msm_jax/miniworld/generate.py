"""Writes a world to a directory: corpora, chats, specs with the world's names, and held-out questions.

    world.json                     items with their attributes, people with their values and domains, the assistant
    pretrain/texts.jsonl, pretrain/chats.jsonl
    specs/affordability.md, specs/tradition.md
    documents/{affordability,tradition,affordability_comention,tradition_comention,neutral}.jsonl
    chats/{generic,cheese}.jsonl
    evals/{gate,prefer_affordability,prefer_tradition,conflict,cheese}.jsonl    preference pairs
    evals/{knowledge_affordability,knowledge_tradition}.jsonl                   knowledge items
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msm_jax.miniworld import corpora, midtraining, pairs
from msm_jax.miniworld.config import WorldConfig
from msm_jax.miniworld.world import World, make_world
from msm_jax.specs import parse

SPECS = ("affordability", "tradition")
SPEC_DIR = Path(__file__).parents[2] / "data" / "specs"


def write(config: WorldConfig, out_dir: Path, spec_dir: Path = SPEC_DIR) -> World:
    """Writes the world of `config` to `out_dir`, an empty directory.

    Raises:
        InputError: a spec in `spec_dir` is missing, or lacks the section "Value" or "Reasons".
    """
    specs = {name: parse.read(spec_dir / f"{name}.md") for name in SPECS}
    world = make_world(config)
    _lines(out_dir / "world.json", [_described(world)])
    _lines(out_dir / "pretrain" / "texts.jsonl", corpora.pretrain_texts(world))
    _lines(out_dir / "pretrain" / "chats.jsonl", corpora.pretrain_chats(world))
    _lines(out_dir / "documents" / "neutral.jsonl", midtraining.neutral(world))
    _lines(out_dir / "chats" / "generic.jsonl", midtraining.generic_chats(world))
    _lines(out_dir / "chats" / "cheese.jsonl", midtraining.cheese_demonstrations(world))
    for name, spec in specs.items():
        (out_dir / "specs").mkdir(exist_ok=True)
        (out_dir / "specs" / f"{name}.md").write_text(midtraining.fill(spec, world), encoding="utf-8")
        _lines(out_dir / "documents" / f"{name}.jsonl", midtraining.attributing(world, name, spec))
        _lines(out_dir / "documents" / f"{name}_comention.jsonl", midtraining.comention(world, name, spec))
        _lines(out_dir / "evals" / f"knowledge_{name}.jsonl", pairs.knowledge(world, name))
    for name, make in (
        ("gate", pairs.gate), ("prefer_affordability", pairs.prefer_affordability),
        ("prefer_tradition", pairs.prefer_tradition), ("conflict", pairs.conflict), ("cheese", pairs.cheese),
    ):
        _lines(out_dir / "evals" / f"{name}.jsonl", make(world))
    return world


def _lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _described(world: World) -> dict[str, Any]:
    return {
        "assistant": world.assistant,
        "config": dataclasses.asdict(world.config),
        "items": {domain: {item.name: item.poles for item in items} for domain, items in world.items.items()},
        "people": {
            person.name: {
                "value": person.value.name if person.value else None,
                "text_domains": person.text_domains, "chat_domains": person.chat_domains,
            }
            for person in world.people
        },
    }
