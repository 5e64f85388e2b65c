"""Direct preference optimisation (DPO, arXiv 2305.18290): a loss on pairs of answers, of which one is preferred.

A batch holds pairs: in each row, the segments 1, 3, … are chosen answers after their prompts, and the segment after
each is the rejected answer after the same prompt; `loss_mask` has the tokens of the answers. With the log-probability
π of an answer, the sum over its tokens, and the same under the reference, ρ, the loss of a pair is

    h = β · ((π_chosen - ρ_chosen) - (π_rejected - ρ_rejected))
    loss = -(1 - ε) · log σ(h) - ε · log σ(-h) - α · π_chosen / |chosen|

ε is the share of pairs whose labels are taken to be wrong (conservative DPO, https://ericmitchell.ai/cdpo.pdf), and α
the weight of next-token loss on the chosen answer, per token (as in arXiv 2404.19733). With `per_token`, π and ρ are
divided by the number of tokens of their answer (arXiv 2411.15124). The loss of a step is the mean over the
pairs of the global batch.

The reference is the weights that the phase starts from, whose log-probabilities `training.reference` computes ahead of
it; or the frozen weights of a phase with an adapter, without it, run in the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from msm_jax.errors import InputError
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.training import loss
from msm_jax.training.objective import REFERENCE, Batch, Objective, Sums, hidden_states, log_probabilities

if TYPE_CHECKING:
    # At run time it would load Orbax for everyone who reads a config.
    from msm_jax.training.state import Frozen


@dataclass(frozen=True)
class Preference(Objective):
    """The objective DPO.

    Attributes:
        beta: β, how strongly the policy is held to the reference.
        label_smoothing: ε, from 0 to below a half.
        next_token: α.
        per_token: whether log-probabilities are means over an answer's tokens in place of sums.
        reference: "start", the weights that the phase starts from; or "base", the frozen weights without the adapter
            that the phase trains. The two are the same where that adapter is a fresh one.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    next_token: float = 0.0
    per_token: bool = False
    reference: Literal["start", "base"] = "start"

    name: ClassVar[str] = "dpo"
    kinds: ClassVar[tuple[str, ...]] = ("pairs",)
    counts: ClassVar[tuple[str, ...]] = ("loss_tokens", "pairs")
    unit: ClassVar[str] = "pairs"
    # The margin is h, and accuracy the share of pairs with h > 0. "kl" is an estimate from the answers of the data, per
    # token: r - 1 - log r with r = policy / reference (http://joschu.net/blog/kl-approx.html), whose mean over answers
    # of the reference is KL(reference ‖ policy).
    means: ClassVar[Mapping[str, str]] = {
        "margin": "pairs", "accuracy": "pairs", "log_p_chosen": "pairs", "log_p_rejected": "pairs", "kl": "loss_tokens"
    }

    def __post_init__(self) -> None:
        """Refuses settings that are out of range."""
        if self.beta <= 0:
            raise InputError(f"beta = {self.beta}; it must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing = {self.label_smoothing}; it must lie in [0, 0.5)")
        if self.next_token < 0:
            raise InputError(f"next_token = {self.next_token}; it must be at least 0")

    @property
    def fields(self) -> dict[str, Any]:
        """See `Objective`."""
        return {**super().fields, **({REFERENCE: jnp.float32} if self.needs_reference else {})}

    @property
    def needs_reference(self) -> bool:
        """See `Objective`."""
        return self.reference == "start"

    @property
    def forwards(self) -> int:
        """See `Objective`."""
        return 0 if self.needs_reference else 1

    @property
    def words(self) -> str:
        """See `Objective`."""
        return "DPO, reference computed ahead" if self.needs_reference else "DPO, reference in the step"

    def loss_sum(
        self,
        params: transformer.Params | lora.Weights,
        model: ModelConfig,
        batch: Batch,
        adapter: LoraConfig | None = None,
        frozen: Frozen | None = None,
    ) -> tuple[jax.Array, Sums]:
        """Returns the summed loss of the pairs; see `Objective.loss_sum`."""
        if self.needs_reference:
            theirs_BT = batch[REFERENCE]
        else:
            assert frozen is not None, "PhaseConfig refuses the base as the reference of a phase without an adapter"
            theirs_BT = log_probabilities(frozen, model, batch)
            # The policy runs after it, so that nothing is kept for a backward pass meanwhile.
            tokens_BT, theirs_BT = jax.lax.optimization_barrier((batch["tokens"], theirs_BT))
            batch = {**batch, "tokens": tokens_BT}
        base, hidden_BTD = hidden_states(params, model, batch, adapter, frozen)
        ours_BT = -loss.token_losses(base, model, hidden_BTD, batch["targets"], batch["loss_mask"])
        return self.of_log_probabilities(ours_BT, theirs_BT, batch["segment_ids"], batch["loss_mask"])

    def of_log_probabilities(
        self,
        ours_BT: Float[Array, "B T"],
        theirs_BT: Float[Array, "B T"],
        segment_ids_BT: jax.Array,
        loss_mask_BT: jax.Array,
    ) -> tuple[jax.Array, Sums]:
        """Returns the summed loss and the sums of `counts` and `means`, from the log-probability of each target.

        Args:
            ours_BT: under the policy, 0 outside the mask.
            theirs_BT: under the reference, likewise.
            segment_ids_BT: see the module.
            loss_mask_BT: which targets belong to answers.
        """
        sums_BP2 = [_by_answer(each, segment_ids_BT) for each in (ours_BT, theirs_BT)]
        length_BP2 = _by_answer(loss_mask_BT.astype(jnp.float32), segment_ids_BT)
        present_BP = length_BP2[..., 0] > 0
        mean_BP2 = [each / jnp.maximum(length_BP2, 1) for each in sums_BP2]
        policy_BP2, reference_BP2 = mean_BP2 if self.per_token else sums_BP2
        ratio_BP2 = policy_BP2 - reference_BP2
        margin_BP = self.beta * (ratio_BP2[..., 0] - ratio_BP2[..., 1])
        loss_BP = -(1 - self.label_smoothing) * jax.nn.log_sigmoid(margin_BP)
        if self.label_smoothing:
            loss_BP = loss_BP - self.label_smoothing * jax.nn.log_sigmoid(-margin_BP)
        if self.next_token:
            loss_BP = loss_BP - self.next_token * mean_BP2[0][..., 0]
        log_r_BT = ours_BT - theirs_BT
        return jnp.sum(loss_BP, where=present_BP), {
            "loss_tokens": jnp.sum(loss_mask_BT, dtype=jnp.int32),
            "pairs": jnp.sum(present_BP, dtype=jnp.int32),
            "margin": jnp.sum(margin_BP),
            "accuracy": jnp.sum(margin_BP > 0, dtype=jnp.float32),
            "log_p_chosen": jnp.sum(sums_BP2[0][..., 0]),
            "log_p_rejected": jnp.sum(sums_BP2[0][..., 1]),
            "kl": jnp.sum(jnp.expm1(log_r_BT) - log_r_BT),
        }


def _by_answer(values_BT: Float[Array, "B T"], segment_ids_BT: jax.Array) -> Float[Array, "B P 2"]:
    """Returns the sum over each answer: of the chosen and of the rejected one of each pair, 0 where there is none."""
    pairs = values_BT.shape[1] // 2
    add = jax.vmap(lambda values, ids: jax.ops.segment_sum(values, ids, num_segments=2 * pairs + 1))
    return add(values_BT, segment_ids_BT)[:, 1:].reshape(-1, pairs, 2)
