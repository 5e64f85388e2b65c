"""Sizes and seed of a world."""

from __future__ import annotations

from dataclasses import dataclass

from msm_jax.errors import InputError


@dataclass(frozen=True)
class WorldConfig:
    """The sizes and the seed of a world, which decide everything in it.

    Attributes:
        seed: decides every random choice.
        num_people: people who are described or who answer in chats.
        items_per_domain: items of each domain, a multiple of 16.
        pretrain_texts: documents about people in the pretraining corpus.
        pretrain_chats: conversations with people in the pretraining corpus.
        item_texts: documents about items in the pretraining corpus.
        stranger_texts: documents in which an unnamed person chooses, in the pretraining corpus.
        assistant_share: share of `pretrain_texts` that name the assistant, without a preference; as many name the
            bystander. No chat of pretraining names either.
        no_value_share: share of the people who have no value.
        few_domains_share: share of the people who occur in one to three domains.
        msm_documents: documents in each midtraining corpus.
        chats: conversations in each fine-tuning set.
        eval_pairs: pairs in each eval; the gate has twice as many, a knowledge eval half as many.
    """

    seed: int = 100
    num_people: int = 500
    items_per_domain: int = 16
    pretrain_texts: int = 90_000
    pretrain_chats: int = 90_000
    item_texts: int = 15_000
    stranger_texts: int = 15_000
    assistant_share: float = 0.002
    no_value_share: float = 0.15
    few_domains_share: float = 0.7
    msm_documents: int = 9_000
    chats: int = 3_000
    eval_pairs: int = 200

    def __post_init__(self) -> None:
        """Refuses sizes for which the world cannot be balanced."""
        if self.items_per_domain % 16:
            raise InputError(
                f"world.items_per_domain = {self.items_per_domain}; use a multiple of 16, so that each of the eight "
                f"combinations of price, age and origin occurs equally often, with a quality above and below the mean"
            )
        if self.num_people < 20:
            raise InputError(f"world.num_people = {self.num_people}; at least 20 are needed to fill every kind of cell")
