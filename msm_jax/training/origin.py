"""What a phase starts from: its own newest checkpoint, another's full state or parameters, or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from jax.sharding import Mesh

from msm_jax.checkpoints import adapters, store
from msm_jax.checkpoints.adapters import Base, Layer, Stack
from msm_jax.checkpoints.digest import digest
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.models.presets import preset
from msm_jax.training import chat, state
from msm_jax.training import program as program_lib
from msm_jax.training.config import PhaseConfig
from msm_jax.training.program import TrainProgram
from msm_jax.training.state import Frozen, TrainState


@dataclass(frozen=True)
class Origin:
    """Where a phase starts, and the model, tokenizer and chat template that follow from it.

    `checkpoint` and its `info` are None and empty for "scratch". `assets` are the files that go into this
    phase's own checkpoints. `start_step` is the number of finished steps. `template`, the hash of the one that the
    phase replaced, and `notices` for the user are as in `chat.PhaseTemplate`. `found` are the adapters in
    `checkpoint`, None where it holds a model's own weights; `stack` those of this phase, None where it trains all
    weights.
    """

    kind: Literal["resume", "state", "params", "scratch"]
    checkpoint: Path | None
    info: Mapping[str, Any]
    model: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate | None
    assets: Mapping[str, bytes]
    start_step: int
    replaced_template_sha256: str = ""
    notices: tuple[str, ...] = ()
    found: Stack | None = None
    stack: Stack | None = None

    @property
    def adapter(self) -> LoraConfig | None:
        """The adapter that the phase trains, if it does."""
        return None if self.stack is None else self.stack.top

    @property
    def beside(self) -> tuple[LoraConfig, ...]:
        """The frozen adapters that are applied beside the base, bottom first."""
        return () if self.stack is None else tuple(layer.config for layer in self.stack.below if not layer.merged)

    @property
    def trained(self) -> int:
        """How many parameters the phase trains."""
        if self.stack is None:
            return transformer.count_params(self.model)
        return lora.count_weights(self.stack.top, self.model)

    @property
    def first_step(self) -> int:
        """The step at which the phase began, before any resume."""
        return int(self.info["first_step"]) if self.kind == "resume" else self.start_step


def find(config: PhaseConfig, workdir: Path) -> Origin:
    """Decides where the phase starts; loads no weights.

    Raises:
        InputError: a checkpoint, tokenizer or template is missing, damaged or does not fit the config or
        each other.
    """
    own = store.latest(workdir)
    if own is not None:
        found = _from_checkpoint(config, "resume", own)
        if config.init.mode == "scratch":
            _check_own_tokenizer(config, found)
    elif config.init.mode == "scratch":
        found = _from_scratch(config)
    else:
        found = _from_checkpoint(config, config.init.mode, store.resolve(config.init.checkpoint))
    found = _with_adapters(config, found)
    if found.model.vocab_size < found.tokenizer.vocab_size:
        raise InputError(
            f"the tokenizer has {found.tokenizer.vocab_size} ids and the model's vocab_size is "
            f"{found.model.vocab_size}; the tokenizer does not match the model"
        )
    if config.data.seq_len > found.model.max_position_embeddings:
        raise InputError(
            f"data.seq_len = {config.data.seq_len} is above the model's max_position_embeddings; set it to "
            f"{found.model.max_position_embeddings} or less"
        )
    if found.kind == "state" and found.start_step >= config.steps:
        raise InputError(
            f"steps = {config.steps}, but {found.checkpoint} has already done {found.start_step}; with "
            'init.mode = "state" steps counts on from there'
        )
    return found


def describe(found: Origin) -> str:
    """One line for the log."""
    size = transformer.count_params(found.model)
    where = {
        "resume": f"continues {found.checkpoint}",
        "state": f"goes on from the state of {found.checkpoint}",
        "params": f"starts from the parameters of {found.checkpoint}",
        "scratch": "starts from scratch",
    }[found.kind]
    if found.stack is None:
        return f"{where}, {size:,} parameters"
    top = found.stack.top
    return f"{where}, {size:,} parameters frozen, {found.trained:,} trained in an adapter of rank {top.rank}"


def program(origin: Origin, config: PhaseConfig) -> TrainProgram:
    """The phase's train step."""
    return program_lib.of_phase(config, origin.model, origin.adapter, origin.beside)


def restore(
    origin: Origin, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> tuple[TrainState, tuple[Frozen, ...], tuple[lora.Weights, ...]]:
    """What the phase starts with, sharded over `mesh`.

    Returns:
        The state; what is frozen beside it, one `Frozen` or none; and the weights of all adapters below the one that is
        trained, merged or not, for this phase's checkpoints.

    Raises:
        InputError: the checkpoint is damaged, its arrays have other shapes, or an adapter's base is not the right one.
    """
    model, checkpoint = origin.model, origin.checkpoint
    if checkpoint is None:
        return state.create(model, optimizer, mesh, jax.random.key(seed)), (), ()
    target = state.abstract(model, optimizer, mesh, origin.adapter)
    name = "params" if origin.stack is None else "adapter"
    weights: tuple[lora.Weights, ...] = ()
    if origin.found is not None:
        weights = adapters.load_weights(checkpoint, origin.found, model, mesh)
    frozen: tuple[Frozen, ...] = ()
    below: tuple[lora.Weights, ...] = ()
    if origin.stack is not None:
        base = adapters.load_base(origin.stack, model, mesh, checkpoint)
        base = adapters.merge_below(base, origin.stack, weights)
        below = weights[: len(origin.stack.below)]
        frozen = (state.freeze(base, adapters.beside(origin.stack, below), seed, mesh),)
    if origin.kind != "params":
        tree = {name: target.params, "opt_state": target.opt_state, "step": target.step}
        loaded = store.load(checkpoint, tree)
        return TrainState(loaded[name], loaded["opt_state"], loaded["step"]), frozen, below
    if origin.stack is None:
        if origin.found is None:
            params = store.load(checkpoint, {"params": target.params})["params"]
        else:
            base = adapters.load_base(origin.found, model, mesh, checkpoint)
            params = adapters.merge_all(base, origin.found, weights)
        return state.from_params(params, model, optimizer, mesh), (), ()
    if len(weights) > len(below):
        return state.from_params(weights[-1], model, optimizer, mesh, origin.adapter), frozen, below
    return state.create(model, optimizer, mesh, jax.random.key(seed), origin.adapter), frozen, below


def identified(origin: Origin, frozen: tuple[Frozen, ...]) -> Origin:
    """The origin with the digests of its base, taken of the weights where no checkpoint has recorded them yet."""
    if origin.stack is None or origin.stack.base.digests:
        return origin
    base = dataclasses.replace(origin.stack.base, digests=digest(frozen[0].params))
    return dataclasses.replace(origin, stack=dataclasses.replace(origin.stack, base=base))


def _with_adapters(config: PhaseConfig, origin: Origin) -> Origin:
    """Adds what the checkpoint's adapters are and what becomes of them in this phase."""
    checkpoint = origin.checkpoint
    if checkpoint is None:
        return origin
    found = adapters.read(origin.info, checkpoint)
    if found is not None:
        found = adapters.locate_base(found, checkpoint, config.init.base)
    elif config.init.base and origin.kind != "resume":
        raise InputError(f"init.base is set, but {checkpoint} holds no adapter; leave it empty")
    origin = dataclasses.replace(origin, found=found)
    if origin.kind == "resume":
        return dataclasses.replace(origin, stack=found)
    if config.lora is None:
        if found is not None and config.adapter != "merge":
            raise InputError(
                f'{checkpoint}: holds an adapter; set lora to train one, or adapter = "merge" to train all weights'
            )
        return origin
    if found is None:
        if origin.kind == "state":
            raise InputError(f'{checkpoint}: holds no adapter whose state could go on; set init.mode = "params"')
        stack = Stack(Base(checkpoint, {}, config.base_dtype), (Layer(config.lora),))
        return dataclasses.replace(origin, stack=stack)
    base = dataclasses.replace(found.base, dtype=config.base_dtype)
    if config.adapter == "continue":
        _check_continues(config.lora, found.top, checkpoint)
        return dataclasses.replace(origin, stack=Stack(base, (*found.below, Layer(config.lora))))
    merged = config.adapter == "merge"
    below = tuple(Layer(layer.config, merged or layer.merged) for layer in found.layers)
    return dataclasses.replace(origin, stack=Stack(base, (*below, Layer(config.lora))))


def _check_continues(wanted: LoraConfig, there: LoraConfig, checkpoint: Path) -> None:
    for name in ("rank", "alpha", "targets"):
        asked, has = getattr(wanted, name), getattr(there, name)
        if asked != has:
            raise InputError(
                f"lora.{name} = {asked!r}, but the adapter in {checkpoint} has {has!r}; "
                'set it to that, or adapter = "stack" or "merge" for a fresh one'
            )


def _from_scratch(config: PhaseConfig) -> Origin:
    tokenizer = Tokenizer.load(config.tokenizer)
    template = chat.from_scratch(config.chat_template, config.data.chat.variables, config.tokenizer, tokenizer)
    overrides = {"vocab_size": tokenizer.vocab_size, **config.model_overrides}
    model = preset(config.preset, **overrides)
    assets = chat.assets(chat.tokenizer_files(config.tokenizer), tokenizer, template)
    return Origin("scratch", None, {}, model, tokenizer, template, assets, 0)


def _from_checkpoint(config: PhaseConfig, kind: Literal["resume", "state", "params"], path: Path) -> Origin:
    info, assets = store.read_info(path), store.read_assets(path)
    try:
        model = ModelConfig.from_json(info["model"])
        step, recorded = int(info["step"]), info["tokenizer_sha256"]
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its info is not of a checkpoint of this version ({error})") from error
    model = model.overridden(config.model_overrides)
    tokenizer = Tokenizer.from_files(assets, f"{path}/")
    if tokenizer.sha256 != recorded:
        raise InputError(f"{path}: its tokenizer is not the one its info records; use another checkpoint")
    start = 0 if kind == "params" else step
    found = chat.from_checkpoint(config, path, info, assets, resumes=kind == "resume")
    return Origin(
        kind,
        path,
        info,
        model,
        tokenizer,
        found.template,
        chat.assets(assets, tokenizer, found.template),
        start,
        found.replaced_sha256,
        found.notices,
    )


def _check_own_tokenizer(config: PhaseConfig, found: Origin) -> None:
    """A run from scratch goes on only with the tokenizer and template it began with."""
    tokenizer = Tokenizer.load(config.tokenizer)
    if tokenizer.sha256 != found.tokenizer.sha256:
        raise InputError(
            f"tokenizer {config.tokenizer} does not match {found.checkpoint} ({tokenizer.vocab_size} and "
            f"{found.tokenizer.vocab_size} ids); use the one the run began with, or another workdir"
        )
    template = chat.from_scratch(config.chat_template, config.data.chat.variables, config.tokenizer, tokenizer)
    if (template and template.source) != (found.template and found.template.source):
        raise InputError(
            f"chat_template {config.chat_template or '(built-in)'} does not match {found.checkpoint}; "
            "use the one the run began with, or another workdir"
        )


def checkpoint_tree(origin: Origin, now: TrainState, below: Sequence[lora.Weights]) -> dict[str, Any]:
    """The entries of this phase's checkpoint: the parameters, or the adapter and those below it without the base."""
    tree = {"opt_state": now.opt_state, "step": now.step}
    if origin.stack is None:
        return {"params": now.params, **tree}
    return {**adapters.tree(now.params, below), **tree}


def checkpoint_info(
    origin: Origin, config: PhaseConfig, checkpoint: Path, step: int, fingerprint: str, totals: Mapping[str, float]
) -> dict[str, Any]:
    """The info of this phase's checkpoint after `step` steps, for a resume, sampling and the next phase."""
    stack = {} if origin.stack is None else adapters.to_info(origin.stack, checkpoint)
    return {
        **stack,
        "phase": config.name,
        "step": step,
        "first_step": origin.first_step,
        "seed": config.seed,
        "model": dataclasses.asdict(origin.model),
        "trained_parameters": origin.trained,
        "data_fingerprint": fingerprint,
        "tokenizer_sha256": origin.tokenizer.sha256,
        "template_sha256": origin.template.sha256 if origin.template else "",
        "replaced_template_sha256": origin.replaced_template_sha256,
        "chat_variables": dict(origin.template.variables) if origin.template else {},
        "totals": dict(totals),
    }
