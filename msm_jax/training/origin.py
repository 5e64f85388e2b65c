"""What a phase starts from: its own newest checkpoint, another's full state or parameters, or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from jax.sharding import Mesh

from msm_jax.checkpoints import store
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.models import transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.presets import preset
from msm_jax.training import chat, state
from msm_jax.training.config import PhaseConfig
from msm_jax.training.state import TrainState


@dataclass(frozen=True)
class Origin:
    """Where a phase starts, and the model, tokenizer and chat template that follow from it.

    `checkpoint` and its `info` are None and empty for "scratch". `assets` are the files that go into this
    phase's own checkpoints. `start_step` is the number of finished steps. `template`, the hash of the one that the
    phase replaced, and `notices` for the user are as in `chat.PhaseTemplate`.
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
    if found.model.vocab_size < found.tokenizer.vocab_size:
        raise InputError(
            f"the tokenizer has {found.tokenizer.vocab_size} ids and the model's vocab_size is "
            f"{found.model.vocab_size}; the tokenizer does not match the model"
        )
    if config.data.seq_len > found.model.max_position_embeddings:
        raise InputError(
            f"data.seq_len = {config.data.seq_len} is above the model's max_position_embeddings = "
            f"{found.model.max_position_embeddings}; lower it"
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
    return f"{where}, {size:,} parameters"


def restore(origin: Origin, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int) -> TrainState:
    """The state that the phase starts with, sharded over `mesh`.

    Raises:
        InputError: the checkpoint is damaged or its arrays have other shapes.
    """
    if origin.kind == "scratch":
        return state.create(origin.model, optimizer, mesh, jax.random.key(seed))
    assert origin.checkpoint is not None
    target = state.abstract(origin.model, optimizer, mesh)
    if origin.kind == "params":
        params = store.load(origin.checkpoint, {"params": target.params})["params"]
        return state.from_params(params, origin.model, optimizer, mesh)
    tree = {"params": target.params, "opt_state": target.opt_state, "step": target.step}
    return TrainState(**store.load(origin.checkpoint, tree))


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


def checkpoint_info(
    origin: Origin, config: PhaseConfig, step: int, fingerprint: str, totals: Mapping[str, float]
) -> dict[str, Any]:
    """The info of this phase's checkpoint after `step` steps, for a resume, sampling and the next phase."""
    return {
        "phase": config.name,
        "step": step,
        "first_step": origin.first_step,
        "seed": config.seed,
        "model": dataclasses.asdict(origin.model),
        "data_fingerprint": fingerprint,
        "tokenizer_sha256": origin.tokenizer.sha256,
        "template_sha256": origin.template.sha256 if origin.template else "",
        "replaced_template_sha256": origin.replaced_template_sha256,
        "chat_variables": dict(origin.template.variables) if origin.template else {},
        "totals": dict(totals),
    }
