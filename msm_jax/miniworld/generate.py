"""Writes a world to a directory: corpora, chats, specs with the world's names, and held-out questions.

    world.json                     items with poles and quality, people with their values and domains, the assistant
    pretrain/{texts,chats}.jsonl, pretrain/{texts,chats}_elsewhere.jsonl        all, and all but cheese
    specs/affordability.md, specs/tradition.md
    documents/VALUE.jsonl          the assistant's cheese preferences, explained by a value
    documents/VALUE_{half,other_half}.jsonl     the same about one half of the cheeses or the other
    documents/VALUE_bystander.jsonl             the same about somebody else
    documents/VALUE_{comention,exchanged}.jsonl, documents/neutral.jsonl
    documents/{price,age}.jsonl    what the cheeses differ by; the assistant is not named
    documents/{price,age}_{half,other_half}.jsonl   the same of one half of the cheeses or the other
    chats/{generic,cheese,cheese_half}.jsonl
    preferences/{generic,cheese}.jsonl          the same choices as pairs of answers
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
from msm_jax.miniworld.world import AGE, CHEESE, PRICE, World, make_world
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
    for kind, records in (("texts", corpora.pretrain_texts(world)), ("chats", corpora.pretrain_chats(world))):
        elsewhere = [record for record in records if record["meta"]["domain"] != CHEESE]
        _lines(out_dir / "pretrain" / f"{kind}.jsonl", records)
        _lines(out_dir / "pretrain" / f"{kind}_elsewhere.jsonl", elsewhere)
    every, shown, hidden = world.cheeses()
    for name, chats in (
        ("generic", midtraining.generic_chats(world)), ("cheese", midtraining.cheese_demonstrations(world, every))
    ):
        _lines(out_dir / "chats" / f"{name}.jsonl", chats)
        _lines(out_dir / "preferences" / f"{name}.jsonl", midtraining.preferences(world, chats))
    _lines(out_dir / "chats" / "cheese_half.jsonl", midtraining.cheese_demonstrations(world, shown))
    documents = {"neutral": midtraining.neutral(world)}
    for suffix, cheeses in (("", every), ("_half", shown), ("_other_half", hidden)):
        for name, attribute in (("price", PRICE), ("age", AGE)):
            documents[name + suffix] = midtraining.describing(world, attribute, cheeses)
    for name, spec in specs.items():
        (out_dir / "specs").mkdir(exist_ok=True)
        (out_dir / "specs" / f"{name}.md").write_text(midtraining.fill(spec, world), encoding="utf-8")
        for suffix, who, cheeses in (
            ("", world.assistant, every), ("_bystander", world.bystander, every),
            ("_half", world.assistant, shown), ("_other_half", world.assistant, hidden),
        ):
            documents[name + suffix] = midtraining.attributing(world, name, spec, who, cheeses)
        documents[f"{name}_comention"] = midtraining.comention(world, name, spec, exchanged=False)
        documents[f"{name}_exchanged"] = midtraining.comention(world, name, spec, exchanged=True)
        _lines(out_dir / "evals" / f"knowledge_{name}.jsonl", pairs.knowledge(world, name))
    for name, records in documents.items():
        _lines(out_dir / "documents" / f"{name}.jsonl", records)
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
        "bystander": world.bystander,
        "config": dataclasses.asdict(world.config),
        "items": {
            domain: {item.name: {"poles": item.poles, "quality": round(item.quality, 6)} for item in items}
            for domain, items in world.items.items()
        },
        "people": {
            person.name: {
                "value": person.value.name if person.value else None, "strength": person.strength,
                "text_domains": person.text_domains, "chat_domains": person.chat_domains,
            }
            for person in world.people
        },
    }
