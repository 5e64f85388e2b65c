"""Log-probabilities of given continuations.

A prompt is run once for all its continuations. They follow it as branches, and each branch attends to the prompt and to
itself. Several such groups share a row and do not attend to each other, like packed documents. Logits are computed only
for the positions that are scored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from msm_jax.errors import InputError
from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.sampling import shapes

# Slots of one batch, and of one row unless a group is longer.
_BATCH_SLOTS = 4096
_ROW_SLOTS = 128
# The most logits that exist at a time: 16 MiB in float32, and about as much again for their exponentials.
_MAX_LOGITS = 2**22


@dataclass
class _Group:
    """A prompt with as many of its continuations as fit in one row; `members` are their indices among the requests."""

    prompt: Sequence[int]
    members: list[int] = field(default_factory=list)
    slots: int = 0


@dataclass
class Batch:
    """Rows as int32 arrays [R, T], and three lists that say which hidden state predicts which token of which request.

    Entry m of the lists says that the hidden state in slot `slots[m]` of the flattened rows predicts the id
    `targets[m]`, which belongs to request `owners[m]`.
    """

    tokens_RT: np.ndarray
    positions_RT: np.ndarray
    groups_RT: np.ndarray  # 0 is padding
    branches_RT: np.ndarray  # 0 is the prompt
    slots: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


def score_batch(
    unstacked: transformer.Params, config: ModelConfig, batch: Batch, known_ids: int, uses_A: Sequence[float]
) -> dict[int, float]:
    """Returns the log-probability (nats, summed over tokens) of each request in a batch, by the request's index.

    Args:
        unstacked: from `transformer.unstack`.
        config: the model's shape.
        batch: from `batches`.
        known_ids: how many ids the tokenizer has. A model may have more; these are never drawn and get no probability.
        uses_A: 1 for each of the parameters' adapters that applies, and 0 for the others.
    """
    count = len(batch.targets)
    padding = [0] * (shapes.bucket(count, smallest=256) - count)
    scores_M = _log_probabilities(
        unstacked,
        config,
        batch.tokens_RT,
        batch.positions_RT,
        batch.groups_RT,
        batch.branches_RT,
        np.array(batch.slots + padding, np.int32),
        np.array(batch.targets + padding, np.int32),
        jnp.int32(known_ids),
        np.tile(np.array(uses_A, np.float32)[:, None], (1, len(batch.tokens_RT))),
    )
    sums = dict.fromkeys(batch.owners, 0.0)
    for owner, log_probability in zip(batch.owners, np.asarray(scores_M)[:count].tolist(), strict=True):
        sums[owner] += log_probability
    return sums


@partial(jax.jit, static_argnames="config")
def _log_probabilities(
    unstacked: transformer.Params,
    config: ModelConfig,
    tokens_RT: Int[Array, "R T"],
    positions_RT: Int[Array, "R T"],
    groups_RT: Int[Array, "R T"],
    branches_RT: Int[Array, "R T"],
    slots_M: Int[Array, " M"],
    targets_M: Int[Array, " M"],
    known_ids: Int[Array, ""],
    uses_AR: Float[Array, "A R"],
) -> Float[Array, " M"]:
    """Returns the log-probability of each target given the hidden state in its slot, float32 [M]."""
    mask_RTT = branch_mask(groups_RT, branches_RT)
    hidden_RTD, _ = transformer.run_layers(unstacked, config, tokens_RT, positions_RT, mask_RTT, uses_AB=uses_AR)
    hidden_MD = hidden_RTD.reshape(-1, config.hidden_size)[slots_M]

    def of_one(scored: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden_D, target = scored
        logits_V = transformer.logits(unstacked, config, hidden_D)
        logits_V = jnp.where(jnp.arange(config.vocab_size) < known_ids, logits_V, -jnp.inf)
        return logits_V[target] - jax.nn.logsumexp(logits_V)

    block = max(1, _MAX_LOGITS // config.vocab_size)
    return jax.lax.map(of_one, (hidden_MD, targets_M), batch_size=min(block, slots_M.shape[0]))


def branch_mask(
    groups_RT: Int[Array, "R T"], branches_RT: Int[Array, "R T"]
) -> Bool[Array, "R T T"]:
    """Returns the causal mask in which a branch attends to its group's prompt (branch 0) and to itself.

    Padding, which is group 0, attends to padding.
    """
    length = groups_RT.shape[1]
    causal_TT = jnp.tril(jnp.ones((length, length), bool))
    same_group = groups_RT[:, :, None] == groups_RT[:, None, :]
    same_branch = branches_RT[:, :, None] == branches_RT[:, None, :]
    return causal_TT & same_group & (same_branch | (branches_RT[:, None, :] == 0))


def batches(
    prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], most_positions: int
) -> Iterator[Batch]:
    """Groups requests by prompt, packs the groups into rows, and yields the rows in batches of few shapes.

    Args:
        prompts: token ids, at least one each.
        continuations: token ids, at least one each.
        most_positions: the most positions of the model.

    Raises:
        InputError: a prompt and its continuation exceed the model's positions.
    """
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(prompts)} prompts for {len(continuations)} continuations")
    for prompt, continuation in zip(prompts, continuations, strict=True):
        if not prompt or not continuation:
            raise ValueError("a prompt or continuation is empty; each needs a token")
        if len(prompt) + len(continuation) > most_positions:
            raise InputError(
                f"a prompt of {len(prompt)} tokens and a continuation of {len(continuation)} exceed the model's "
                f"{most_positions} positions; shorten one of them"
            )
    longest = max((len(p) + len(c) - 1 for p, c in zip(prompts, continuations, strict=True)), default=0)
    length = max(_ROW_SLOTS, shapes.bucket(longest))
    rows = _packed(_grouped(prompts, continuations, length), length)
    most = max(1, _BATCH_SLOTS // length)
    for begin in range(0, len(rows), most):
        chosen = rows[begin : begin + most]
        yield _filled(chosen, continuations, shapes.rows(len(chosen), most), length)


def _grouped(
    prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], length: int
) -> list[_Group]:
    """Returns groups of requests with equal prompts, each of as many requests as fit in `length` slots."""
    groups: list[_Group] = []
    latest: dict[tuple[int, ...], _Group] = {}
    for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        # The last token is only predicted, so it needs no slot.
        slots = len(continuation) - 1
        key = tuple(prompt)
        group = latest.get(key)
        if group is None or group.slots + slots > length:
            group = latest[key] = _Group(prompt, slots=len(prompt))
            groups.append(group)
        group.members.append(i)
        group.slots += slots
    return groups


def _packed(groups: list[_Group], length: int) -> list[list[_Group]]:
    """Packs groups into rows, the longest first, each into the fullest row that has room (best fit)."""
    with_room: list[list[list[_Group]]] = [[] for _ in range(length + 1)]
    rows: list[list[_Group]] = []
    for group in sorted(groups, key=lambda g: -g.slots):
        room = next((r for r in range(group.slots, length) if with_room[r]), length)
        if room == length:
            rows.append(row := [])
        else:
            row = with_room[room].pop()
        row.append(group)
        with_room[room - group.slots].append(row)
    return rows


def _filled(
    chosen: list[list[_Group]], continuations: Sequence[Sequence[int]], rows: int, length: int
) -> Batch:
    """Returns a batch of `rows` rows; the first ones hold the groups in `chosen`, the others are padding."""
    tokens, positions, numbers, branches = np.zeros((4, rows, length), np.int32)
    batch = Batch(tokens, positions, numbers, branches)
    for row, groups in enumerate(chosen):
        slot = 0
        for number, group in enumerate(groups, 1):
            size = len(group.prompt)
            last = row * length + slot + size - 1
            _write(batch, row, slot, group.prompt, 0, number, 0)
            slot += size
            for branch, member in enumerate(group.members, 1):
                *given, final = continuations[member]
                _write(batch, row, slot, given, size, number, branch)
                batch.slots += [last, *range(row * length + slot, row * length + slot + len(given))]
                batch.targets += [*given, final]
                batch.owners += [member] * (len(given) + 1)
                slot += len(given)
    return batch


def _write(
    batch: Batch, row: int, slot: int, ids: Sequence[int], position: int, group: int, branch: int
) -> None:
    where = np.s_[row, slot : slot + len(ids)]
    batch.tokens_RT[where] = ids
    batch.positions_RT[where] = np.arange(position, position + len(ids))
    batch.groups_RT[where] = group
    batch.branches_RT[where] = branch
