"""Sizes and seed of a world."""

from __future__ import annotations

from dataclasses import dataclass

from msm_jax.errors import InputError


@dataclass(frozen=True)
class WorldConfig:
    """One closed world. Everything in it follows from these numbers.

    `pretrain_texts` and `pretrain_chats` count documents about people and conversations with them; `item_texts`
    documents about items, `stranger_texts` choices by nobody in particular. `assistant_share` is the share of the
    texts that names the assistant, without a preference; it does not occur in the chats.
    `msm_documents` and `chats` size each midtraining corpus and each fine-tuning set, `eval_pairs` the evals.
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
        """Refuse sizes for which the world cannot be balanced."""
        if self.items_per_domain % 8:
            raise InputError(
                f"world.items_per_domain = {self.items_per_domain}; use a multiple of 8, so that each of the eight "
                f"combinations of price, age and origin occurs equally often"
            )
        if self.num_people < 20:
            raise InputError(f"world.num_people = {self.num_people}; at least 20 are needed to fill every kind of cell")
