"""What a phase optimises, as an object that says everything which step, loop, records and plans need to know of it.

The loss of a step is a sum divided by a count, both over the global batch. So neither depends on how the rows are cut
into micro-batches or spread over devices. `NextToken` is the objective of documents and chats; `training.preference`
has the one of pairs.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter, LoraConfig
from msm_jax.training import loss

if TYPE_CHECKING:
    # At run time it would load Orbax for everyone who reads a config.
    from msm_jax.training.state import Frozen

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]

# The field of a batch with the log-probabilities of its targets under the weights that the phase starts from.
REFERENCE = "reference"


class Objective(abc.ABC):
    """An objective. Subclasses are frozen dataclasses of their settings.

    Attributes:
        name: its name in JSON.
        kinds: the kinds of sources (see `data.config.SourceConfig`) that it reads.
        counts: the sums that count something, as recorded; "loss_tokens" is one of them.
        unit: the one of `counts` by which the loss is divided.
        means: further metrics by name, each a sum, with the one of `counts` by which it is divided.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    counts: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    means: ClassVar[Mapping[str, str]] = {}

    @property
    def fields(self) -> dict[str, Any]:
        """The arrays of a batch, each [rows, seq_len], by name, with their dtypes."""
        return {**dict.fromkeys(("tokens", "targets", "segment_ids", "positions"), jnp.int32), "loss_mask": jnp.bool_}

    @property
    def needs_reference(self) -> bool:
        """Whether a batch has the field `REFERENCE` (see `training.reference`)."""
        return False

    @property
    def forwards(self) -> int:
        """How often a step runs the frozen weights forward, without the adapter that is trained and without gradient.

        An objective with any needs an adapter.
        """
        return 0

    @property
    def words(self) -> str:
        """What titles say of the objective; "" for next-token loss."""
        return ""

    @abc.abstractmethod
    def loss_sum(
        self,
        params: transformer.Params | lora.Weights,
        model: ModelConfig,
        batch: Batch,
        adapter: LoraConfig | None = None,
        frozen: Frozen | None = None,
    ) -> tuple[jax.Array, Sums]:
        """Returns the summed loss (nats), and the sums of `counts` (int32) and `means` (float32).

        With `adapter`, `params` are its weights and `frozen` holds the base. If the batch has "dropout_keys" (see
        `lora.row_keys`), dropout is applied to the adapter's inputs.
        """

    def averages(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `means` from their sums; 0 where nothing was counted."""
        return {name: sums[name] / jnp.maximum(sums[count], 1) for name, count in self.means.items()}


@dataclass(frozen=True)
class NextToken(Objective):
    """Next-token cross-entropy on the tokens in the loss mask; `z_loss` as in `loss.cross_entropy`."""

    z_loss: float = 0.0

    name: ClassVar[str] = "next_token"
    kinds: ClassVar[tuple[str, ...]] = ("documents", "chats")
    counts: ClassVar[tuple[str, ...]] = ("loss_tokens",)
    unit: ClassVar[str] = "loss_tokens"

    def loss_sum(
        self,
        params: transformer.Params | lora.Weights,
        model: ModelConfig,
        batch: Batch,
        adapter: LoraConfig | None = None,
        frozen: Frozen | None = None,
    ) -> tuple[jax.Array, Sums]:
        """Returns the summed loss and the number of loss tokens; see `Objective.loss_sum`."""
        base, hidden_BTD = hidden_states(params, model, batch, adapter, frozen)
        total, count = loss.cross_entropy(
            base, model, hidden_BTD, batch["targets"], batch["loss_mask"], self.z_loss
        )
        return total, {"loss_tokens": count}


NEXT_TOKEN = NextToken()


def hidden_states(
    params: transformer.Params | lora.Weights,
    model: ModelConfig,
    batch: Batch,
    adapter: LoraConfig | None,
    frozen: Frozen | None,
) -> tuple[transformer.Params, Float[Array, "B T D"]]:
    """Returns the model's own parameters and the final hidden states of a batch; arguments as `Objective.loss_sum`."""
    active = None
    if adapter is not None and frozen is not None:
        active = lora.activate((*frozen.below, Adapter(params, adapter)), model, batch.get("dropout_keys"))
        params = frozen.params
    return params, transformer.apply(
        params, model, batch["tokens"], batch["positions"], batch["segment_ids"], active
    )


def log_probabilities(frozen: Frozen, model: ModelConfig, batch: Batch) -> Float[Array, "B T"]:
    """Returns the log-probability of each target in the mask, and 0 elsewhere, under weights without dropout."""
    active = lora.activate(frozen.below, model) if frozen.below else None
    hidden_BTD = transformer.apply(
        frozen.params, model, batch["tokens"], batch["positions"], batch["segment_ids"], active
    )
    losses_BT = loss.token_losses(frozen.params, model, hidden_BTD, batch["targets"], batch["loss_mask"])
    return jax.lax.stop_gradient(-losses_BT)
