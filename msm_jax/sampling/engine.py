"""The sampler: a model with its tokenizer and chat template, which answers many requests in few batches."""

import bisect
import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from msm_jax.checkpoints import compose
from msm_jax.data import templates
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError, WorkError
from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.sampling import decode, scoring, shapes
from msm_jax.sampling.config import SamplingConfig

log = logging.getLogger(__name__)

# Tokens that are drawn between two searches for stop strings. A reply that has ended waits at most this many steps.
_CHUNK = 16


@dataclass(frozen=True)
class Generation:
    """One reply.

    Attributes:
        text: the reply, without stop string, end of turn and other special tokens.
        ids: the tokens that were drawn. The last one is the stop id, or the token that completes a stop string, if one
            ended the reply.
        finish_reason: "stop" if a stop id or stop string ended the reply, "length" if `max_new_tokens` did.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]


class Sampler:
    """Generates replies from one model and scores given texts with it.

    All samplers in a process whose models have one shape share compiled programs.

    Attributes:
        config: the model's shape.
        tokenizer: the model's tokenizer.
        template: its chat template; None if the checkpoint has none and so cannot chat.
        stop_ids: ids that end a reply; see `templates.stop_ids`.
        batch: the most requests that are decoded side by side.
    """

    def __init__(
        self,
        params: transformer.Params,
        config: ModelConfig,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        mesh: Mesh | None = None,
        batch: int = 64,
        generation_config: bytes | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """Takes parameters as `transformer.init_params` makes them, on one device or sharded over `mesh`.

        `generation_config` is the content of `generation_config.json`, which may list stop ids. Adapters are applied
        beside the parameters, without a merged copy.

        Raises:
            InputError: the tokenizer has more ids than the model, or `batch` is below 1.
        """
        if tokenizer.vocab_size > config.vocab_size:
            raise InputError(
                f"the tokenizer has {tokenizer.vocab_size} ids and the model's vocab_size is "
                f"{config.vocab_size}; the tokenizer does not match the model"
            )
        if batch < 1:
            raise InputError(f"batch = {batch}; it must be at least 1")
        self.config = config
        self.tokenizer = tokenizer
        self.template = template
        self.stop_ids = templates.stop_ids(tokenizer, template, generation_config)
        self.batch = batch
        self._mesh = mesh
        self._specials = frozenset(tokenizer.specials.values())
        with self._on_mesh():
            self._params = jax.jit(transformer.unstack, static_argnums=1)(params, config, tuple(adapters))

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        mesh: MeshConfig = MeshConfig(),  # noqa: B008 (frozen)
        batch: int = 64,
        adapter: Path | str = "",
        chat_variables: Mapping[str, Any] | None = None,
    ) -> "Sampler":
        """Loads the sampler of a checkpoint, or of the newest checkpoint in a run directory.

        Weights are loaded in the model's compute dtype, to which each matrix product would cast them. An adapter's
        checkpoint names its own base. `adapter` names an adapter (a checkpoint of ours or a PEFT directory) for the
        base `path`. Tokenizer and chat template are those with which the adapter was trained. The template gets the
        variables that it had in training, and `chat_variables` on top of them.

        Raises:
            InputError: `path` holds no checkpoint, or one that is damaged or not self-contained; the adapter belongs to
                another base; or the mesh does not fit the devices or the model.
        """
        found = compose.find(path, adapter)
        tokenizer = Tokenizer.from_files(found.assets, f"{found.checkpoint}/")
        template = templates.of_checkpoint(found.info, found.assets, f"{found.checkpoint}/")
        if template is not None and chat_variables:
            template = _told(template, chat_variables)
        devices = make_mesh(mesh, jax.local_devices())
        params, adapters = compose.load(found, devices)
        generation = found.assets.get(templates.GENERATION_FILE)
        return cls(params, found.model, tokenizer, template, devices, batch, generation, adapters)

    def chat_prompt(
        self, messages: Sequence[templates.Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Returns the token ids of a chat up to the place where the assistant's reply begins.

        Raises:
            InputError: the checkpoint has no chat template, or the template refuses the messages.
        """
        return templates.encode_prompt(self.tokenizer, self._chat_template(), messages, tools)

    def chat_turn(self, messages: Sequence[templates.Message], reply: str) -> tuple[list[int], list[int]]:
        """Returns the ids of `chat_prompt(messages)`, and those of a reply with the end of turn that closes it."""
        answer = {"role": "assistant", "content": reply}
        return templates.encode_reply(self.tokenizer, self._chat_template(), messages, answer)

    def _chat_template(self) -> ChatTemplate:
        if self.template is None:
            raise InputError("the checkpoint has no chat template and cannot chat; sample plain text from it")
        return self.template

    def text_prompt(self, text: str) -> list[int]:
        """Returns the ids of a plain text, after the begin token if the tokenizer has one.

        For an empty text and no begin token it returns the id after which a new document begins.
        """
        return [*self.tokenizer.begin_ids, *self.tokenizer.encode(text)] or [self.tokenizer.document_end_id]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Returns one reply per prompt, in order; see `replies` for the arguments and errors."""
        return _in_order(self.replies(prompts, sampling, seeds))

    def replies(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[dict[int, Generation]]:
        """Yields the replies of one decoded batch after the other, by the index of their prompt.

        A reply depends on its prompt, its seed and the settings alone, up to float rounding.

        Args:
            prompts: token ids, at least one each.
            sampling: how to draw.
            seeds: one per prompt; `sampling.seed` + index where None.

        Raises:
            InputError: a prompt and `max_new_tokens` together exceed the model's positions.
        """
        if seeds is None:
            seeds = [(sampling.seed + i) % 2**31 for i in range(len(prompts))]
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        room = self.config.max_position_embeddings - sampling.max_new_tokens
        for prompt in prompts:
            if not prompt:
                raise ValueError("a prompt is empty; it needs at least the begin token")
            if len(prompt) > room:
                raise InputError(
                    f"a prompt of {len(prompt)} tokens and max_new_tokens = {sampling.max_new_tokens} exceed the "
                    f"model's {self.config.max_position_embeddings} positions; shorten one of them"
                )
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for begin in range(0, len(order), self.batch):
            chosen = order[begin : begin + self.batch]
            batch = self._decode([prompts[i] for i in chosen], [seeds[i] for i in chosen], sampling)
            yield dict(zip(chosen, batch, strict=True))

    def score(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """Returns what `scores` yields, in order: float64 [n]."""
        return np.array(_in_order(self.scores(prompts, continuations)), np.float64)

    def scores(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> Iterator[dict[int, float]]:
        """Yields, batch by batch and by index, the log-probability (nats) of each continuation after its prompt.

        A log-probability is summed over the continuation's tokens. Prompts that are equal are run once for all their
        continuations.

        Raises:
            InputError: a prompt and its continuation exceed the model's positions.
            WorkError: a log-probability is not a finite number, because the weights are not.
        """
        for batch in scoring.batches(prompts, continuations, self.config.max_position_embeddings):
            with self._on_mesh():
                sums = scoring.score_batch(self._params, self.config, batch, self.tokenizer.vocab_size)
            if not np.isfinite(list(sums.values())).all():
                raise WorkError("log-probabilities are not finite, because the checkpoint holds weights that are not")
            yield sums

    def _decode(
        self, prompts: list[Sequence[int]], seeds: list[int], sampling: SamplingConfig
    ) -> list[Generation]:
        """Returns the replies to the prompts of one batch, in order."""
        length = shapes.bucket(max(map(len, prompts)))
        rows = shapes.rows(len(prompts), self.batch)
        tokens_BT = np.full((rows, length), self.tokenizer.pad_id, np.int32)
        padding = [0] * (rows - len(prompts))
        starts = [length - len(prompt) for prompt in prompts] + padding
        for row, prompt in enumerate(prompts):
            tokens_BT[row, starts[row] :] = prompt
        asked = decode.requests(
            starts,
            seeds + padding,
            self.stop_ids,
            self.tokenizer.vocab_size,
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
        )
        greedy = sampling.temperature == 0
        filtered = not greedy and (sampling.top_k > 0 or sampling.top_p < 1)
        how = {"greedy": greedy, "filtered": filtered}
        most = sampling.max_new_tokens
        chunk = _CHUNK if sampling.stop else most
        padding_B = np.arange(rows) >= len(prompts)
        room = 1
        sizes = shapes.growth(length, most)
        with self._on_mesh():
            progress = decode.prefill(
                self._params, self.config, tokens_BT, asked, padding_B, shapes.bucket(most), **how
            )
            while True:
                drawn = int(progress.step)
                replies_BN = np.asarray(progress.replies_BN)[:, :drawn]
                replies = [
                    self._finish(prompt, replies_BN[row], sampling) for row, prompt in enumerate(prompts)
                ]
                if drawn == most or all(reply.finish_reason == "stop" for reply in replies):
                    return replies
                if drawn == room:
                    slots = next(sizes)
                    progress = decode.grow(progress, slots)
                    room = min(slots - length + 1, most)
                until = min(drawn + chunk, room)
                progress = decode.decode(
                    self._params, self.config, asked, progress, np.int32(length), np.int32(until), **how
                )

    def _finish(self, prompt: Sequence[int], drawn: np.ndarray, sampling: SamplingConfig) -> Generation:
        """Makes a reply of the tokens that a row has drawn, cut at the first stop id or stop string."""
        # A reply that continues a text keeps the space between them; one that follows a marker begins without a space.
        continues = prompt[-1] not in self._specials
        ids = [int(i) for i in drawn]
        ends = [i for i, token in enumerate(ids) if token in self.stop_ids]
        if ends:
            ids = ids[: ends[0] + 1]
        body = ids[:-1] if ends else ids

        def decoded(count: int) -> str:
            return self.tokenizer.decode(body[:count], continues=continues)

        text = decoded(len(body))
        if not any(stop in text for stop in sampling.stop):
            return Generation(text, tuple(ids), "stop" if ends else "length")
        # The fewest tokens whose text holds a stop string: the reply does not depend on when the search happened.
        count = bisect.bisect_left(
            range(len(body)),
            True,
            key=lambda n: any(stop in decoded(n) for stop in sampling.stop),
        )
        text = decoded(count)
        cut = min(text.index(stop) for stop in sampling.stop if stop in text)
        return Generation(text[:cut], tuple(ids[:count]), "stop")

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)


def _in_order(pieces: Iterable[dict[int, Any]]) -> list[Any]:
    """Returns the values of several mappings by their keys, which are 0 to n-1."""
    found = {index: value for piece in pieces for index, value in piece.items()}
    return [found[i] for i in range(len(found))]


def _told(template: ChatTemplate, chat_variables: Mapping[str, Any]) -> ChatTemplate:
    """Returns the template with more variables; warns of those that had another value in training."""
    for name in sorted(template.variables.keys() & chat_variables.keys()):
        before, now = template.variables[name], chat_variables[name]
        if before != now:
            log.warning("%s: the variable %s was %r in training and is now %r", template.where, name, before, now)
    return replace(template, variables={**template.variables, **chat_variables})
