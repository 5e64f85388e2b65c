"""The engine: a model with its tokenizer and chat template, which answers requests from any thread, many at a time."""

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from msm_jax.checkpoints import adapters as stored_adapters
from msm_jax.checkpoints import compose
from msm_jax.data import encoding, templates
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError, WorkError
from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import Adapter
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.sampling import memory, scoring
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.pages import prefix_keys
from msm_jax.sampling.requests import Generation, Job, Request, Texts, TokenLogprob
from msm_jax.sampling.slots import Slots, Stats

__all__ = ["Engine", "Generation", "Request", "Stats", "TokenLogprob"]

# One engine computes at a time: two programs that each span several devices would wait for each other if they started
# in different orders. A thread that asks first is served first: without the second lock, an engine that computes step
# after step would take the first one again before those who wait for it wake up.
_DEVICES, _NEXT = threading.Lock(), threading.Lock()
_ENGINES: "weakref.WeakSet[Engine]" = weakref.WeakSet()


@contextlib.contextmanager
def _devices() -> Iterator[None]:
    """Holds the devices, after those who asked for them before."""
    with _NEXT:
        _DEVICES.acquire()
    try:
        yield
    finally:
        _DEVICES.release()


class Engine:
    """Generates replies from one model and scores given texts with it.

    A thread of the engine computes while there are requests. All engines in a process whose models have one shape share
    compiled programs.

    Attributes:
        config: the model's shape.
        tokenizer: the model's tokenizer.
        template: its chat template; None if the checkpoint has none and so cannot chat.
        stop_ids: ids that end a reply of the model itself; see `encoding.stop_ids`.
        slots: the most requests that decode side by side.
    """

    def __init__(
        self,
        params: transformer.Params,
        config: ModelConfig,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        mesh: Mesh | None = None,
        slots: int = 32,
        generation_config: bytes | None = None,
        adapters: Sequence[Adapter] = (),
        cache_mib: int = 0,
        page: int = 128,
    ) -> None:
        """Takes parameters as `transformer.init_params` makes them, on one device or sharded over `mesh`.

        Args:
            params: the parameters.
            config: the model's shape.
            tokenizer: the model's tokenizer.
            template: its chat template.
            mesh: the devices that hold the parameters.
            slots: the most requests that decode side by side.
            generation_config: the content of `generation_config.json`, which may list stop ids.
            adapters: are applied beside the parameters to requests that name no other.
            cache_mib: the memory of the cache of keys and values, over all devices. With 0 it is half of what the
                devices have free, or 1 GiB where they do not say. It is never more than all slots can fill.
            page: the tokens of a page of the cache, which are also run together in a prefill.

        Raises:
            InputError: the tokenizer has more ids than the model, a number is out of range, or the cache is too small
                for one page.
        """
        if tokenizer.vocab_size > config.vocab_size:
            raise InputError(
                f"the tokenizer has {tokenizer.vocab_size} ids and the model's vocab_size is "
                f"{config.vocab_size}; the tokenizer does not match the model"
            )
        if slots < 1:
            raise InputError(f"slots = {slots}; it must be at least 1")
        self.config, self.tokenizer, self.template, self.slots = config, tokenizer, template, slots
        self.stop_ids = encoding.stop_ids(tokenizer, template, generation_config)
        self._mesh, self._page = mesh, page
        self._stop_ids = {"": tuple(self.stop_ids)}
        self._adapters = list(adapters)
        self._members: dict[str, frozenset[int]] = {"": frozenset(range(len(adapters)))}
        self._path: Path | str = ""
        with self._on_mesh():
            self._params = jax.jit(transformer.unstack, static_argnums=1)(params, config, tuple(adapters))
        self._pages = memory.pages(config, slots, page, cache_mib, mesh)
        self._inbox: list[Job] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = self._abandoned = False
        self._state = Slots(
            config, tokenizer.vocab_size, Texts(tokenizer), slots, page, self._pages, len(self._adapters)
        )
        _ENGINES.add(self)

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        mesh: MeshConfig = MeshConfig(),  # noqa: B008 (frozen)
        slots: int = 32,
        adapter: Path | str = "",
        chat_variables: Mapping[str, Any] | None = None,
        adapters: Mapping[str, Path | str] | None = None,
        cache_mib: int = 0,
    ) -> "Engine":
        """Loads the engine of a checkpoint, or of the newest checkpoint in a run directory.

        Weights are loaded in the model's compute dtype, to which each matrix product would cast them. An adapter's
        checkpoint names its own base. `adapter` names an adapter (a checkpoint of ours or a PEFT directory) for the
        base `path`, for requests that name none. Tokenizer and chat template are those with which it was trained. The
        template gets the variables that it had in training, and `chat_variables` on top of them.

        `adapters` are further ones for the base `path`, by the names under which requests ask for them; see
        `add_adapter`.

        Raises:
            InputError: `path` holds no checkpoint, or one that is damaged or not self-contained; an adapter belongs to
                another base; or the mesh does not fit the devices or the model.
        """
        found = compose.find(path, adapter)
        tokenizer, template = compose.read_texts(found)
        if template is not None and chat_variables:
            template = template.told(chat_variables)
        devices = make_mesh(mesh, jax.local_devices())
        params, always = compose.load(found, devices)
        generation = found.assets.get(templates.GENERATION_FILE)
        made = cls(params, found.model, tokenizer, template, devices, slots, generation, always, cache_mib)
        made._path = path
        for name, further in (adapters or {}).items():
            made.add_adapter(name, further)
        return made

    def add_adapter(self, name: str, path: Path | str) -> None:
        """Loads an adapter that requests can name, while others are being answered; programs are compiled again.

        The base stays as it is. An adapter may have stop ids of its own, but not another tokenizer.

        Raises:
            InputError: the name is taken, the adapter belongs to another base, was trained on one with merged adapters,
                or has another tokenizer; or the engine itself applies an adapter.
        """
        if name in self._members:
            raise InputError(f"adapter {name!r}: there is one of this name already; choose another name")
        if self._mesh is None or not self._path:
            raise ValueError("only an engine that was loaded from a checkpoint can load adapters")
        found = compose.find(self._path, path)
        assert found.stack is not None
        if any(each.merged for each in found.stack.adapters):
            raise InputError(f"{path}: was trained above an adapter that is merged into its base; serve it by itself")
        tokenizer, template = compose.read_texts(found)
        if tokenizer.sha256 != self.tokenizer.sha256:
            raise InputError(f"{path}: its tokenizer is not that of {self._path}; serve it by itself")
        weights = compose.load_adapters(found, self._mesh)
        weights = jax.tree.map(lambda leaf: leaf.astype(self.config.compute_dtype), weights)
        own = stored_adapters.beside(found.stack, weights)
        with _devices(), self._changed, self._on_mesh():
            active = transformer.unstack_adapters([*self._adapters, *own], self.config)
            self._params = {**self._params, "adapters": active}
            self._members[name] = frozenset(range(len(self._adapters), len(self._adapters) + len(own)))
            self._adapters += own
            generation = found.assets.get(templates.GENERATION_FILE)
            self._stop_ids[name] = tuple(encoding.stop_ids(self.tokenizer, template, generation))
            self._state.set_adapters(len(self._adapters))

    def chat_prompt(
        self, messages: Sequence[templates.Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Returns the token ids of a chat up to the place where the assistant's reply begins.

        Raises:
            InputError: there is no chat template, or the template refuses the messages.
        """
        return encoding.encode_prompt(self.tokenizer, self._chat_template(), messages, tools)

    def chat_turn(self, messages: Sequence[templates.Message], reply: str) -> tuple[list[int], list[int]]:
        """Returns the ids of `chat_prompt(messages)`, and those of a reply with the end of turn that closes it."""
        answer = {"role": "assistant", "content": reply}
        return encoding.encode_reply(self.tokenizer, self._chat_template(), messages, answer)

    def _chat_template(self) -> ChatTemplate:
        if self.template is None:
            raise InputError("the checkpoint has no chat template and cannot chat; sample plain text from it")
        return self.template

    def text_prompt(self, text: str) -> list[int]:
        """Returns the ids of a plain text; see `Tokenizer.text_prompt`."""
        return self.tokenizer.text_prompt(text)

    def submit(self, request: Request, on_piece: Callable[[str], None] | None = None) -> "Future[Generation]":
        """Queues a request, from any thread, and returns the future of its reply.

        A reply depends on its request alone. In float32 it does to the bit, on one kind of machine with one number of
        slots. Cancelling the future takes the request out, also while it is being answered.

        Args:
            request: what to answer.
            on_piece: is called in the engine's thread with pieces of the reply's text, which add up to it. It must
                return soon and raise nothing.

        Raises:
            InputError: the prompt and `max_new_tokens` exceed the model's positions or the engine's cache, or the
                adapter is not known.
            WorkError: the engine is closed.
        """
        self._check(request)
        job = Job(
            request,
            self._stop_ids[request.adapter],
            self._members[request.adapter],
            prefix_keys(request.prompt[:-1], self._page, request.adapter.encode()),
            on_piece,
        )
        with self._changed:
            if self._closed:
                raise WorkError("the engine is closed and takes no more requests")
            self._inbox.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
        return job.future

    def _check(self, request: Request) -> None:
        if not request.prompt:
            raise ValueError("a prompt is empty; it needs at least the begin token")
        if request.adapter not in self._members:
            known = ", ".join(repr(name) for name in self._members if name) or "none is loaded"
            raise InputError(f"adapter {request.adapter!r} is not loaded; choose from: {known}")
        length, new = len(request.prompt), request.sampling.max_new_tokens
        if length + new > self.config.max_position_embeddings:
            raise InputError(
                f"a prompt of {length} tokens and max_new_tokens = {new} exceed the "
                f"model's {self.config.max_position_embeddings} positions; shorten one of them"
            )
        room = (self._pages - 1) * self._page
        if length - 1 + new > room:
            raise InputError(
                f"a prompt of {length} tokens and max_new_tokens = {new} exceed the {room} tokens of the engine's "
                "cache; shorten one of them, or give the cache more memory"
            )

    def _run(self) -> None:
        """Computes until there is nothing to do; the engine's thread."""
        while True:
            with self._changed:
                self._state.add(self._inbox)
                self._inbox = []
                if self._abandoned:
                    for job in self._state.jobs():
                        job.future.cancel()
                if self._state.idle:
                    self._thread = None
                    self._changed.notify_all()
                    return
            try:
                with _devices(), self._on_mesh():
                    self._state.advance(self._params)
            except Exception as error:  # it belongs to those who wait for the replies
                failed = self._state.jobs()
                self._state.clear()
                for job in failed:
                    if job.future.set_running_or_notify_cancel():
                        job.future.set_exception(error)

    def close(self, drain: bool = True) -> None:
        """Refuses further requests and waits for the engine's thread, after answering what is queued if `drain`."""
        with self._changed:
            self._closed = True
            self._abandoned = self._abandoned or not drain
            self._changed.wait_for(lambda: self._thread is None)

    @property
    def most_tokens(self) -> int:
        """The most tokens that a prompt and its reply may have together, by the model's positions and the cache."""
        return min(self.config.max_position_embeddings, (self._pages - 1) * self._page + 1)

    def stats(self) -> Stats:
        """Returns what the engine has done so far."""
        return self._state.stats.copy()

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
        """Yields the reply to each prompt by the prompt's index, as they are finished.

        Args:
            prompts: token ids, at least one each.
            sampling: how to draw.
            seeds: one per prompt; `sampling.seed` + index where None.

        Raises:
            InputError: see `submit`; nothing is computed then.
        """
        if seeds is None:
            seeds = [(sampling.seed + i) % 2**31 for i in range(len(prompts))]
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        requests = [Request(prompt, replace(sampling, seed=seed)) for prompt, seed in zip(prompts, seeds, strict=True)]
        for request in requests:
            self._check(request)
        futures = {self.submit(request): i for i, request in enumerate(requests)}
        try:
            for future in as_completed(futures):
                yield {futures[future]: future.result()}
        finally:
            for future in futures:
                future.cancel()

    def score(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], adapter: str = ""
    ) -> np.ndarray:
        """Returns what `scores` yields, in order: float64 [n]."""
        return np.array(_in_order(self.scores(prompts, continuations, adapter)), np.float64)

    def scores(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], adapter: str = ""
    ) -> Iterator[dict[int, float]]:
        """Yields, batch by batch and by index, the log-probability (nats) of each continuation after its prompt.

        A log-probability is summed over the continuation's tokens. Prompts that are equal are run once for all their
        continuations.

        Raises:
            InputError: a prompt and its continuation exceed the model's positions.
            WorkError: a log-probability is not a finite number, because the weights are not.
        """
        for batch in scoring.batches(prompts, continuations, self.config.max_position_embeddings):
            with _devices(), self._on_mesh():
                uses_A = [float(i in self._members[adapter]) for i in range(len(self._adapters))]
                sums = scoring.score_batch(self._params, self.config, batch, self.tokenizer.vocab_size, uses_A)
            if not np.isfinite(list(sums.values())).all():
                raise WorkError("log-probabilities are not finite, because the checkpoint holds weights that are not")
            yield sums

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)


@atexit.register
def _stop_all() -> None:
    """Stops the threads of all engines: one that computes while the interpreter ends would abort the process."""
    for engine in list(_ENGINES):
        engine.close(drain=False)


def _in_order(pieces: Iterable[dict[int, Any]]) -> list[Any]:
    """Returns the values of several mappings by their keys, which are 0 to n-1."""
    found = {index: value for piece in pieces for index, value in piece.items()}
    return [found[i] for i in range(len(found))]
