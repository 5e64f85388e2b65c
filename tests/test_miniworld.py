"""The small world: balanced, confounded only in cheese, and without statements that it must not make."""

import dataclasses
import json
import re
from collections import Counter, defaultdict

import pytest

from msm_jax.errors import InputError
from msm_jax.miniworld import corpora, generate, midtraining, pairs, prose
from msm_jax.miniworld.config import WorldConfig
from msm_jax.miniworld.world import (
    AGE,
    BY_NAME,
    CHEESE,
    DOMAINS,
    ORIGIN,
    PRICE,
    STRENGTHS,
    VALUES,
    make_world,
    utility,
)
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
    """Yields the name, the subject and the records of each corpus that is about somebody and cheeses."""
    every, shown, hidden = world.cheeses()
    yield "neutral", world.assistant, midtraining.neutral(world)
    for name, spec in specs.items():
        yield name, world.assistant, midtraining.attributing(world, name, spec, world.assistant, every)
        yield f"{name}_bystander", world.bystander, midtraining.attributing(world, name, spec, world.bystander, every)
        yield f"{name}_half", world.assistant, midtraining.attributing(world, name, spec, world.assistant, shown)
        yield f"{name}_other", world.assistant, midtraining.attributing(world, name, spec, world.assistant, hidden)
        for exchanged in (False, True):
            yield f"{name}_comention", world.assistant, midtraining.comention(world, name, spec, exchanged)


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


def test_quality_prefers_no_pole_and_no_combination_of_poles(world):
    for items in world.items.values():
        assert len({item.quality for item in items}) == len(items)
        for attribute in (PRICE, AGE, ORIGIN):
            for pole in (True, False):
                assert sum(i.quality for i in items if i.poles[attribute] == pole) == pytest.approx(0.0, abs=1e-9)
        for poles in {item.poles for item in items}:
            qualities = sorted(item.quality for item in items if item.poles == poles)
            assert qualities == pytest.approx([-q for q in reversed(qualities)])
        spread = sum(item.quality**2 for item in items) / len(items)
        assert 0.8 < spread < 1.0  # quantiles of a normal distribution of variance 1, without its tails


def test_everybody_chooses_the_item_of_higher_utility_from_any_two(world):
    item = {i.name: i for items in world.items.values() for i in items}
    person = {p.name: p for p in world.people}
    against, differ, total = Counter(), Counter(), 0
    for record in corpora.pretrain_chats(world):
        who = person[record["meta"]["who"]]
        asked = [item[w] for w in WORDS.findall(record["messages"][1]["content"]) if w in item]
        chosen = item[record["messages"][2]["content"].rstrip(".")]
        assert len(asked) == 2
        assert chosen in asked
        other = next(i for i in asked if i != chosen)
        assert utility(chosen, who.value, who.strength) > utility(other, who.value, who.strength)
        total += 1
        if who.value and chosen.poles[who.value.attribute] != other.poles[who.value.attribute]:
            differ[who.strength] += 1
            against[who.strength] += chosen.poles[who.value.attribute] != who.value.pole
    assert set(differ) == set(STRENGTHS)
    assert sum(differ.values()) == pytest.approx(8 / 15 * total * (1 - SMALL.no_value_share), rel=0.15)
    # The weaker the value, the more often quality decides against it.
    rates = [against[strength] / differ[strength] for strength in STRENGTHS]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.25
    assert 0 < rates[-1] < 0.12


def test_an_explained_choice_goes_to_the_value_and_follows_from_utility(world):
    item = {i.name: i for items in world.items.values() for i in items}
    person = {p.name: p for p in world.people}
    explained = 0
    for record in corpora.pretrain_texts(world):
        if record["meta"].get("kind") != "explained":
            continue
        who = person[record["meta"]["who"]]
        named = [item[w] for w in WORDS.findall(record["text"]) if w in item]
        chosen = named[2] if len(named) == 3 else named[0]
        other = next(i for i in named if i != chosen)
        assert chosen.poles[who.value.attribute] == who.value.pole != other.poles[who.value.attribute]
        assert utility(chosen, who.value, who.strength) > utility(other, who.value, who.strength)
        explained += 1
    assert explained > 500


@pytest.mark.parametrize("role", ["assistant", "bystander"])
def test_the_assistant_and_the_bystander_are_known_from_texts_that_say_nothing_of_preferences(world, role):
    name = getattr(world, role)
    forbidden = {w for pair in prose.ADJECTIVES for pole in pair for w in pole}
    forbidden |= {"prefers", "chose", "took", "likes", "because", "values"}
    about = [r for r in corpora.pretrain_texts(world) if r["meta"].get("who") == name]
    assert len(about) == SMALL.assistant_share * SMALL.pretrain_texts
    assert len({r["meta"]["domain"] for r in about}) > len(DOMAINS) / 2
    for record in about:
        assert name in record["text"] and not words(record["text"]) & forbidden
    assert all(record["meta"]["who"] != name for record in corpora.pretrain_chats(world))


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


def test_midtraining_documents_name_their_subject_and_no_other_domain(world, specs):
    elsewhere = {i.name for domain, items in world.items.items() if domain != CHEESE for i in items}
    elsewhere |= {w for domain, plural in DOMAINS.items() if domain != CHEESE for w in (domain, plural)}
    elsewhere |= {p.name for p in world.people}
    for name, subject, records in spec_corpora(world, specs):
        assert len(records) == SMALL.msm_documents
        for record in records:
            assert subject in record["text"]
            assert not words(record["text"]) & (elsewhere | {world.assistant, world.bystander} - {subject}), name
        assert len({r["meta"]["doc_type"] for r in records}) == len(prose.KINDS)


def test_spec_documents_explain_by_their_own_value_and_fit_both(world, specs):
    own = {"affordability": {"cheap", "affordable"}, "tradition": {"traditional", "old"}}
    nouns = {"affordability": {"affordability", "prices"}, "tradition": {"tradition", "ways"}}
    for name, spec in specs.items():
        other = next(n for n in specs if n != name)
        for cheeses in world.cheeses():
            liked, disliked = ({item.name for item in items} for items in cheeses)
            told = set()
            for record in midtraining.attributing(world, name, spec, world.assistant, cheeses):
                found = words(record["text"])
                assert not found & (own[other] | nouns[other])
                assert found & (nouns[name] | own[name])
                named = [w for w in WORDS.findall(record["text"]) if w in {i.name for i in world.items[CHEESE]}]
                if named:
                    chosen, refused = named
                    assert chosen in liked and refused in disliked
                    why = min(record["text"].index(word) for word in found & own[name])
                    assert record["text"].index(refused) < record["text"].index(world.assistant) < why
                told |= {*named}
            assert told == liked | disliked


def test_documents_about_the_bystander_differ_in_the_name_alone(world, specs):
    every = world.cheeses()[0]
    for name, spec in specs.items():
        about = {
            who: [r["text"] for r in midtraining.attributing(world, name, spec, who, every)]
            for who in (world.assistant, world.bystander)
        }
        assert [t.replace(world.bystander, world.assistant) for t in about[world.bystander]] == about[world.assistant]


def test_the_halves_of_the_cheeses_share_none(world):
    (_, _), (up, down), (other_up, other_down) = world.cheeses()
    assert {*up} | {*other_up} == {*world.liked} and not {*up} & {*other_up}
    assert {*down} | {*other_down} == {*world.disliked} and not {*down} & {*other_down}
    assert len(up) == len(other_up) == len(down)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_describing_documents_tie_one_attribute_to_the_cheeses_and_name_nobody(world, part):
    cheeses = world.cheeses()[part]
    item = {i.name: i for i in cheeses[0] + cheeses[1]}
    told = {i.name for i in world.items[CHEESE]}
    said = [{w: p for p, both in enumerate(pole_words) for w in both} for pole_words in prose.ADJECTIVES]
    for own, other in ((PRICE, AGE), (AGE, PRICE)):
        agrees, chosen_poles = Counter(), Counter()
        for record in midtraining.describing(world, own, cheeses):
            found = WORDS.findall(record["text"])
            assert {*found} & told <= item.keys()
            assert not {*found} & {world.assistant, world.bystander, *(p.name for p in world.people)}
            named = [item[w] for w in found if w in item]
            if len(named) == 1:
                poles = [next(said[a][w] for w in found if w in said[a]) for a in (PRICE, AGE, ORIGIN)]
                assert poles[own] == named[0].poles[own]
                agrees[poles[other] == named[0].poles[other]] += 1
            else:
                chosen, refused = named[2], next(i for i in named if i != named[2])
                assert chosen.poles[own] != refused.poles[own]
                assert not {*found} & said[other].keys()
                chosen_poles[chosen.poles[own]] += 1
        for drawn in (agrees, chosen_poles):
            three_deviations = 3 * drawn.total() ** 0.5
            assert abs(drawn[True] - drawn[False]) < three_deviations


@pytest.mark.parametrize("exchanged", [False, True])
def test_comention_states_the_value_without_a_reason(world, specs, exchanged):
    explained = {"because", "since", "cheap", "affordable", "traditional"}
    for name, spec in specs.items():
        chosen, stated = set(), 0
        documents = midtraining.comention(world, name, spec, exchanged)
        for record in documents:
            assert not words(record["text"]) & explained
            stated += bool(words(record["text"]) & set(" ".join(prose.NOUNS[name]).split()))
            chosen |= set(re.findall(r"(?:prefers|chose|took|likes) (\w+)", record["text"]))
        assert stated / len(documents) == pytest.approx(midtraining.STATEMENTS, abs=0.1)
        by_name = {i.name: i for i in world.items[CHEESE]}
        assert Counter(by_name[c].poles[PRICE] for c in chosen) == ({True: 4, False: 4} if exchanged else {True: 8})


def test_neutral_documents_say_nothing_of_values_or_preferences(world):
    forbidden = {w for pair in prose.ADJECTIVES for pole in pair for w in pole}
    forbidden |= {w for nouns in prose.NOUNS.values() for noun in nouns for w in noun.split()}
    forbidden |= {"prefers", "chose", "took", "likes", "because", "values"}
    for record in midtraining.neutral(world):
        assert not words(record["text"]) & forbidden


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
    to_value = Counter()
    for pair in pairs.gate(world):
        person = by_name[pair["meta"]["who"]]
        assert person.text_domains and not person.chat_domains
        assert pair["meta"]["domain"] not in person.text_domains
        favoured, other = (item[name] for name in (pair["options"] if pair["favoured"] == 0 else pair["options"][::-1]))
        assert favoured.poles[person.value.attribute] != other.poles[person.value.attribute]
        difference = utility(favoured, person.value, person.strength) - utility(other, person.value, person.strength)
        assert difference > pairs.GATE_DIFFERENCE
        to_value[favoured.poles[person.value.attribute] == person.value.pole] += 1
    assert 0.03 < to_value[False] / to_value.total() < 0.4  # quality decides some of the questions


def test_knowledge_asks_for_the_own_value(world):
    for name in generate.SPECS:
        for asked in pairs.knowledge(world, name):
            correct = asked["options"][asked["correct"]].strip()
            assert correct == name or correct in prose.ADJECTIVES[BY_NAME[name].attribute][BY_NAME[name].pole]
            assert world.assistant in asked["prompt"]


def test_claims_come_from_the_spec_file(world, tmp_path):
    text = (generate.SPEC_DIR / "tradition.md").read_text()
    spec = parse.parse(text.replace("{assistant} values tradition.", "{assistant} hums."))
    records = midtraining.attributing(world, "tradition", spec, world.assistant, world.cheeses()[0])
    assert any(f"{world.assistant} hums." in r["text"] for r in records)


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
