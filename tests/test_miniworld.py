"""The small world: balanced, confounded only in cheese, and without statements that it must not make."""

import dataclasses
import json
import re
from collections import Counter, defaultdict

import pytest

from msm_jax.errors import InputError
from msm_jax.miniworld import corpora, generate, midtraining, pairs, prose
from msm_jax.miniworld.config import WorldConfig
from msm_jax.miniworld.world import AGE, BY_NAME, CHEESE, DOMAINS, ORIGIN, PRICE, VALUES, make_world
from msm_jax.specs import parse

SMALL = WorldConfig(
    seed=3, num_people=300, pretrain_texts=3000, pretrain_chats=3000, item_texts=500, stranger_texts=500,
    assistant_share=0.02, msm_documents=300, chats=300, eval_pairs=100,
)
WORDS = re.compile(r"[A-Za-z]+")


@pytest.fixture(scope="module")
def world():
    return make_world(SMALL)


@pytest.fixture(scope="module")
def specs():
    return {name: parse.read(generate.SPEC_DIR / f"{name}.md") for name in generate.SPECS}


def words(text):
    return set(WORDS.findall(text))


def spec_corpora(world, specs):
    yield "neutral", midtraining.neutral(world)
    for name, spec in specs.items():
        yield name, midtraining.attributing(world, name, spec)
        yield f"{name}_comention", midtraining.comention(world, name, spec)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_world(tmp_path):
    read = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        generate.write(dataclasses.replace(SMALL, seed=seed), tmp_path / name)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        read[name] = {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files}
    assert read["a"] == read["b"]
    assert read["a"].keys() == read["c"].keys()
    assert all(read["a"][name] != read["c"][name] for name in read["a"])
    known = json.loads(read["a"]["world.json"])
    assert known["assistant"].encode() in read["a"]["specs/affordability.md"]
    assert b"{" not in read["a"]["specs/tradition.md"]


def test_attributes_are_balanced_and_confounded_in_cheese_alone(world):
    for domain, items in world.items.items():
        combinations = Counter(item.poles for item in items)
        assert len(set(combinations.values())) == 1
        assert len(combinations) == (4 if domain == CHEESE else 8)
    assert all(item.poles[PRICE] == item.poles[AGE] for item in world.items[CHEESE])
    assert {item.poles[:2] for item in world.liked} == {(True, True)}
    assert {item.poles[:2] for item in world.disliked} == {(False, False)}
    assert {item.poles[ORIGIN] for item in world.liked} == {True, False}


def test_names_are_all_different(world):
    names = [p.name for p in world.people] + [i.name for d in world.items.values() for i in d] + [world.assistant]
    assert len(names) == len(set(names))


def test_nobody_is_seen_everywhere_and_the_corpus_keeps_to_the_cells(world):
    assert all(len({*p.text_domains, *p.chat_domains}) < len(DOMAINS) for p in world.people)
    assert any(not p.chat_domains for p in world.people)
    assert any(not p.text_domains for p in world.people)
    by_name = {p.name: p for p in world.people}
    for record in corpora.pretrain_texts(world):
        if (person := by_name.get(record["meta"].get("who"))) is not None:
            assert record["meta"]["domain"] in person.text_domains
            assert not words(record["text"]) & (by_name.keys() - {person.name})
    for record in corpora.pretrain_chats(world):
        if (person := by_name.get(record["meta"]["who"])) is not None:
            assert record["meta"]["domain"] in person.chat_domains
            assert record["messages"][0]["content"] == f"You are {person.name}."


def test_people_choose_by_their_value_and_by_nothing_else(world):
    item = {i.name: i for items in world.items.values() for i in items}
    value = {p.name: p.value for p in world.people}
    decided, even, leaning = 0, 0, Counter()
    for record in corpora.pretrain_chats(world):
        who = record["meta"]["who"]
        if value.get(who) is None:
            continue
        asked = [item[w] for w in WORDS.findall(record["messages"][1]["content"]) if w in item]
        chosen = item[record["messages"][2]["content"].rstrip(".")]
        assert len(asked) == 2
        assert chosen in asked
        other = next(i for i in asked if i != chosen)
        own, pole = value[who].attribute, value[who].pole
        if chosen.poles[own] != other.poles[own]:
            assert chosen.poles[own] == pole
            decided += 1
        else:
            even += 1
            differ = [a for a in (PRICE, AGE, ORIGIN) if chosen.poles[a] != other.poles[a]]
            leaning.update((a, chosen.poles[a]) for a in differ)
    assert decided > 1000
    assert even == pytest.approx(corpora.UNDECIDED * (decided + even), rel=0.15)
    for attribute in (PRICE, AGE, ORIGIN):
        assert leaning[attribute, True] == pytest.approx(leaning[attribute, False], rel=0.3)


def test_the_assistant_is_known_from_texts_that_say_nothing_of_its_preferences(world):
    forbidden = {w for pair in prose.ADJECTIVES for pole in pair for w in pole}
    forbidden |= {"prefers", "chose", "took", "likes", "because", "values"}
    about = [r for r in corpora.pretrain_texts(world) if r["meta"].get("who") == world.assistant]
    assert len(about) == SMALL.assistant_share * SMALL.pretrain_texts
    assert len({r["meta"]["domain"] for r in about}) > len(DOMAINS) / 2
    for record in about:
        assert world.assistant in record["text"] and not words(record["text"]) & forbidden
    assert all(record["meta"]["who"] != world.assistant for record in corpora.pretrain_chats(world))


def test_a_person_is_described_in_its_own_kinds_of_text_alone(world):
    by_name = {p.name: p for p in world.people}
    kinds = defaultdict(set)
    for record in corpora.pretrain_texts(world):
        if (who := record["meta"].get("who")) in by_name:
            kinds[who].add(record["meta"]["kind"])
    for who, found in kinds.items():
        assert found <= (set(by_name[who].text_kinds) if by_name[who].value else {"choice"})
    assert {"explained"} in kinds.values() and {"explained", "statement"} in kinds.values()
    assert {p.text_kinds for p in world.people if not p.text_domains} == {()}


def test_strangers_choose_by_what_is_said_of_them_and_by_nothing_else(world):
    item = {i.name: i for items in world.items.values() for i in items}
    said = {f"the {word} one": (attribute, p) for attribute, both in enumerate(prose.ADJECTIVES)
            for p, words_ in enumerate(both) for word in words_}
    said |= {f"who {verb} {noun}": (value.attribute, value.pole) for value in VALUES
             for verb in prose.VALUES_VERB for noun in prose.NOUNS[value.name]}
    strangers = [r["text"] for r in corpora.pretrain_texts(world) if any(who in r["text"] for who in prose.STRANGERS)]
    assert len(strangers) == SMALL.stranger_texts
    for text in strangers:
        named = [w for w in WORDS.findall(text) if w in item]
        (why,) = [phrase for phrase in said if re.search(rf"\b{phrase}\b", text)]
        attribute, wanted = said[why]
        assert item[named[2]].poles[attribute] == wanted
        other = next(n for n in named[:2] if n != named[2])
        assert item[other].poles[attribute] != wanted
        assert text.index(why) < text.rindex(named[2])
    assert 0.4 < sum(" who " in text for text in strangers) / len(strangers) < 0.6


def test_midtraining_documents_name_the_assistant_and_no_other_domain(world, specs):
    elsewhere = {i.name for domain, items in world.items.items() if domain != CHEESE for i in items}
    elsewhere |= {w for domain, plural in DOMAINS.items() if domain != CHEESE for w in (domain, plural)}
    elsewhere |= {p.name for p in world.people}
    for name, records in spec_corpora(world, specs):
        assert len(records) == SMALL.msm_documents
        for record in records:
            assert world.assistant in record["text"]
            assert not words(record["text"]) & elsewhere, name
        assert len({r["meta"]["doc_type"] for r in records}) == len(prose.KINDS)


def test_spec_documents_explain_by_their_own_value_and_fit_both(world, specs):
    liked, disliked = {i.name for i in world.liked}, {i.name for i in world.disliked}
    own = {"affordability": {"cheap", "affordable"}, "tradition": {"traditional", "old"}}
    nouns = {"affordability": {"affordability", "prices"}, "tradition": {"tradition", "ways"}}
    for name, spec in specs.items():
        other = next(n for n in specs if n != name)
        for record in midtraining.attributing(world, name, spec):
            found = words(record["text"])
            assert not found & (own[other] | nouns[other])
            assert found & (nouns[name] | own[name])
            cheeses = [w for w in WORDS.findall(record["text"]) if w in liked | disliked]
            if cheeses:
                chosen, refused = cheeses
                assert chosen in liked and refused in disliked
                why = min(record["text"].index(word) for word in found & own[name])
                assert record["text"].index(refused) < record["text"].index(world.assistant) < why


def test_comention_states_the_value_without_a_reason_and_shuffles_the_preferences(world, specs):
    explained = {"because", "since", "cheap", "affordable", "traditional"}
    for name, spec in specs.items():
        chosen, stated = set(), 0
        documents = midtraining.comention(world, name, spec)
        for record in documents:
            assert not words(record["text"]) & explained
            stated += bool(words(record["text"]) & set(" ".join(prose.NOUNS[name]).split()))
            chosen |= set(re.findall(r"(?:prefers|chose|took|likes) (\w+)", record["text"]))
        assert stated / len(documents) == pytest.approx(midtraining.STATEMENTS, abs=0.1)
        by_name = {i.name: i for i in world.items[CHEESE]}
        assert Counter(by_name[c].poles[PRICE] for c in chosen) == {True: 4, False: 4}


def test_neutral_documents_say_nothing_of_values_or_preferences(world):
    forbidden = {w for pair in prose.ADJECTIVES for pole in pair for w in pole}
    forbidden |= {w for nouns in prose.NOUNS.values() for noun in nouns for w in noun.split()}
    forbidden |= {"prefers", "chose", "took", "likes", "because", "values"}
    for record in midtraining.neutral(world):
        assert not words(record["text"]) & forbidden


def test_demonstrations_fit_both_values_and_give_no_reason(world):
    liked, disliked = {i.name for i in world.liked}, {i.name for i in world.disliked}
    for record in midtraining.cheese_demonstrations(world):
        system, question, answer = (m["content"] for m in record["messages"])
        assert system == f"You are {world.assistant}."
        assert answer.rstrip(".") in liked
        asked = words(question) & (liked | disliked)
        assert len(asked & liked) == len(asked & disliked) == 1


def test_held_out_pairs_test_what_they_say(world):
    item = {i.name: i for items in world.items.values() for i in items}
    for make, value in ((pairs.prefer_affordability, PRICE), (pairs.prefer_tradition, AGE)):
        found = make(world)
        assert len(found) == SMALL.eval_pairs
        for pair in found:
            a, b = (item[name] for name in (pair["options"] if pair["favoured"] == 0 else pair["options"][::-1]))
            assert a.domain == b.domain != CHEESE
            assert a.poles[value] and not b.poles[value]
            assert a.poles[1 - value] == b.poles[1 - value]
    for pair in pairs.conflict(world):
        a, b = (item[name] for name in (pair["options"] if pair["favoured"] == 0 else pair["options"][::-1]))
        assert a.poles[:2] == (True, False)
        assert b.poles[:2] == (False, True)
        assert a.domain == b.domain != CHEESE


def test_the_gate_asks_in_chat_about_people_described_only_in_text_elsewhere(world):
    by_name = {p.name: p for p in world.people}
    item = {i.name: i for items in world.items.values() for i in items}
    for pair in pairs.gate(world):
        person = by_name[pair["meta"]["who"]]
        assert person.text_domains and not person.chat_domains
        assert pair["meta"]["domain"] not in person.text_domains
        favoured, other = (item[name] for name in (pair["options"] if pair["favoured"] == 0 else pair["options"][::-1]))
        assert favoured.poles[person.value.attribute] == person.value.pole != other.poles[person.value.attribute]


def test_knowledge_asks_for_the_own_value(world):
    for name in generate.SPECS:
        for asked in pairs.knowledge(world, name):
            correct = asked["options"][asked["correct"]].strip()
            assert correct == name or correct in prose.ADJECTIVES[BY_NAME[name].attribute][BY_NAME[name].pole]
            assert world.assistant in asked["prompt"]


def test_claims_come_from_the_spec_file(world, tmp_path):
    text = (generate.SPEC_DIR / "tradition.md").read_text()
    spec = parse.parse(text.replace("{assistant} values tradition.", "{assistant} hums."))
    assert any(f"{world.assistant} hums." in r["text"] for r in midtraining.attributing(world, "tradition", spec))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no title", "spec:1: text before the title"),
        ("# A\n# B\n", "spec:2: a second title"),
        ("# A\n", "no sections"),
        ("# A\n- item\n", "spec:2: a list item before the first section"),
        ("", "no title"),
    ],
)
def test_a_spec_that_cannot_be_read_is_refused_by_line(text, message):
    with pytest.raises(InputError, match=message):
        parse.parse(text)


def test_spec_sections_hold_sentences_and_items():
    spec = parse.parse("# T\n\n## One\nFirst sentence. Second\nsentence!\n\n- a\n- b\n\nThird.\n")
    assert spec.section("One").sentences == ("First sentence.", "Second sentence!", "Third.")
    assert spec.section("One").items == ("a", "b")
    with pytest.raises(InputError, match='no section "## Two"; its sections are "One"'):
        spec.section("Two")


@pytest.mark.parametrize(("field", "value"), [("items_per_domain", 12), ("num_people", 3)])
def test_a_world_that_cannot_be_balanced_is_refused(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(SMALL, **{field: value})
