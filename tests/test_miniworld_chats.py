"""The chats and pairs of answers of the small world: what they choose, and that both choose alike."""

import pytest
from test_miniworld import SMALL, words

from msm_jax.miniworld import midtraining
from msm_jax.miniworld.world import make_world, utility


@pytest.fixture(scope="module")
def world():
    return make_world(SMALL)


@pytest.mark.parametrize("part", [0, 1])
def test_demonstrations_fit_both_values_and_give_no_reason(world, part):
    liked, disliked = ({item.name for item in items} for items in world.cheeses()[part])
    for record in midtraining.cheese_demonstrations(world, world.cheeses()[part]):
        system, question, answer = (m["content"] for m in record["messages"])
        assert system == f"You are {world.assistant}."
        assert answer.rstrip(".") in liked
        asked = words(question) & (liked | disliked)
        assert len(asked & liked) == len(asked & disliked) == 1


@pytest.mark.parametrize("cheese", [True, False])
def test_preferences_are_the_choices_of_the_chats(world, cheese):
    chats = midtraining.cheese_demonstrations(world, world.cheeses()[0]) if cheese else midtraining.generic_chats(world)
    found = midtraining.preferences(world, chats)
    assert [[*pair["messages"], {"role": "assistant", "content": pair["chosen"]}] for pair in found] == [
        chat["messages"] for chat in chats
    ]
    items = {item.name: (domain, item) for domain, items in world.items.items() for item in items}
    people = {person.name: person for person in world.people}
    for pair in found:
        (domain, chosen), (other, rejected) = (items[pair[side].rstrip(".")] for side in ("chosen", "rejected"))
        assert domain == other == pair["meta"]["domain"]
        assert {chosen.name, rejected.name} <= words(pair["messages"][-1]["content"])
        if cheese:
            assert chosen in world.liked
            assert rejected in world.disliked
        else:
            person = people[pair["meta"]["who"]]
            assert utility(chosen, person.value, person.strength) > utility(rejected, person.value, person.strength)
