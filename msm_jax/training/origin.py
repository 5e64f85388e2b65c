"""Where a phase starts: finding and loading its own newest checkpoint, or another's state or parameters, or nothing.

What follows from a checkpoint for the phase is decided in `training.start`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from jax.sharding import Mesh

from msm_jax.checkpoints import adapters, store
from msm_jax.checkpoints.adapters import Base, Stack
from msm_jax.checkpoints.digest import digest
from msm_jax.data import templates
from msm_jax.data.templates import DEFAULT_TEMPLATE, GENERATION_FILE, TEMPLATE_FILE, ChatTemplate
from msm_jax.data.tokenizers import CHAT_MARKERS, FILES, JSON_FILE, MODEL_FILE, Tokenizer
from msm_jax.errors import InputError
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.training import chat, start, state
from msm_jax.training.chat import PhaseTemplate
from msm_jax.training.config import PhaseConfig
from msm_jax.training.start import Parent, Start
from msm_jax.training.state import Frozen, TrainState


@dataclass(frozen=True)
class Origin:
    """Where a phase starts, with all that follows from it.

    Attributes:
        kind: "resume" from the phase's own checkpoint; otherwise the phase's `init.mode`.
        checkpoint: where the weights come from, None for "scratch".
        info: the info of `checkpoint`, empty for "scratch".
        model, tokenizer, template: what the phase trains with; no template means that it can read no chats.
        assets: the files that the phase's own checkpoints carry.
        start_step: the number of finished steps.
        replaced_template_sha256: the hash of the template that the phase replaced, "" where it replaced none.
        notices: what the user has to know, one line each.
        found: the adapters in `checkpoint`, None where it holds a model's own weights.
        stack: the adapters of this phase, None where it trains all weights.
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
        """The adapter that the phase trains, None where it trains all weights."""
        return None if self.stack is None else self.stack.top

    @property
    def beside(self) -> tuple[LoraConfig, ...]:
        """The frozen adapters that are applied beside the base, bottom first."""
        return () if self.stack is None else tuple(each.config for each in self.stack.below if not each.merged)

    @functools.cached_property  # every checkpoint records it, and counting traces the initialisation
    def trained(self) -> int:
        """The number of parameters that the phase trains."""
        if self.stack is None:
            return transformer.count_params(self.model)
        return lora.count_weights(self.stack.top, self.model)

    @property
    def needed(self) -> tuple[Path, ...]:
        """The checkpoints of other runs that this phase needs: the one that it starts from, and an adapter's base."""
        base = () if self.stack is None else (self.stack.base.path,)
        return base if self.checkpoint is None or self.kind == "resume" else (self.checkpoint, *base)

    @property
    def first_step(self) -> int:
        """The step at which the phase began, before any resume."""
        return int(self.info["first_step"]) if self.kind == "resume" else self.start_step


def of_checkpoint(path: Path, info: Mapping[str, Any], assets: Mapping[str, bytes]) -> Parent:
    """Returns what the checkpoint at `path` says of itself by its info and assets.

    Its tokenizer is None where the assets hold none, as in a checkpoint that was converted without one.

    Raises:
        InputError: the info or an asset is damaged or of another version, or they contradict each other.
    """
    try:
        model = ModelConfig.from_json(info["model"])
        step, recorded = int(info["step"]), info["tokenizer_sha256"]
        replaced = info.get("replaced_template_sha256", "")
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its info is not that of a checkpoint of this version ({error})") from error
    held = JSON_FILE in assets or MODEL_FILE in assets
    tokenizer = Tokenizer.from_files(assets, f"{path}/") if held else None
    if tokenizer is not None and tokenizer.sha256 != recorded:
        raise InputError(f"{path}: its tokenizer is not the one that its info records; use another checkpoint")
    stack = adapters.read(info, path)
    template = templates.of_checkpoint(info, assets, f"{path}/")
    theirs = () if stack is None else stack.adapters
    return Parent(str(path), model, theirs, tokenizer, PhaseTemplate(template, replaced), step, assets)


def read(config: PhaseConfig) -> Parent:
    """Reads what a phase starts from: its checkpoint, or for a phase from scratch its tokenizer directory.

    Raises:
        InputError: it is missing or damaged.
    """
    if config.init.mode == "scratch":
        return read_tokenizer(config.tokenizer, config.chat_template)
    return read_checkpoint(config.init.checkpoint)


def read_checkpoint(checkpoint: Path | str) -> Parent:
    """Reads what a checkpoint, or the newest one of a run directory, says of itself.

    Raises:
        InputError: it is missing or damaged.
    """
    path = store.resolve(checkpoint)
    return of_checkpoint(path, store.read_info(path), store.read_assets(path))


def read_tokenizer(directory: str, chat_template: str = "") -> Parent:
    """Reads the tokenizer directory of a phase from scratch.

    The chat template is the directory's own, else the built-in one if the tokenizer has the markers that it writes. It
    is not looked for where the phase names a file, `chat_template`.

    Raises:
        InputError: the directory holds no tokenizer, or a file in it is damaged.
    """
    tokenizer = Tokenizer.load(directory)
    paths = [Path(directory) / name for name in (*FILES, TEMPLATE_FILE, GENERATION_FILE)]
    files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    found = None
    if not chat_template:
        source = templates.find_source_in(Path(directory), files)
        if source is None and set(CHAT_MARKERS) <= tokenizer.specials.keys():
            source = DEFAULT_TEMPLATE
        found = PhaseTemplate(None if source is None else ChatTemplate(source))
    return Parent(directory, None, (), tokenizer, found, 0, files)


def find(config: PhaseConfig, workdir: Path, before: int | None = None) -> Origin:
    """Finds where the phase starts, and decides how (`start.decide`); loads no weights.

    Args:
        config: the phase.
        workdir: the directory of the run.
        before: the start must be before this step, which is to be trained again; None takes the newest checkpoint.

    Raises:
        InputError: a checkpoint, tokenizer or template is missing, damaged or does not fit the config or
            each other.
    """
    own = store.latest(workdir, before)
    scratch = config.init.mode == "scratch"
    path = own if own is not None or scratch else store.resolve(config.init.checkpoint)
    info = {} if path is None else store.read_info(path)
    parent = read(config) if path is None else of_checkpoint(path, info, store.read_assets(path))
    template = chat.read(config.chat_template)
    found = start.decide(config, parent, template, resumes=own is not None)
    if own is not None and scratch:
        _check_own_tokenizer(config, template, found, own)
    if found.tokenizer is None:
        raise InputError(f"{path}: holds no tokenizer; convert it again from a directory that has one")
    assert found.model is not None and found.chat is not None
    theirs = stack = None
    if path is not None:
        theirs = adapters.read(info, path)
        if theirs is not None:
            theirs = adapters.locate_base(theirs, path, config.init.base)
        base = Base(path, {}, found.base_dtype) if theirs is None else theirs.base
        if found.adapters:
            stack = Stack(dataclasses.replace(base, dtype=found.base_dtype), found.adapters)
    return Origin(
        kind="resume" if own is not None else config.init.mode,
        checkpoint=path,
        info=info,
        model=found.model,
        tokenizer=found.tokenizer,
        template=found.chat.template,
        assets=found.assets,
        start_step=int(info["step"]) if own is not None or config.init.mode == "state" else 0,
        replaced_template_sha256=found.chat.replaced_sha256,
        notices=found.chat.notices,
        found=theirs,
        stack=stack,
    )


def describe(found: Origin) -> str:
    """Returns one line for the log."""
    size = transformer.count_params(found.model)
    where = {
        "resume": f"continues {found.checkpoint}",
        "state": f"continues from the state of {found.checkpoint}",
        "params": f"starts from the parameters of {found.checkpoint}",
        "scratch": "starts from scratch",
    }[found.kind]
    if found.stack is None:
        return f"{where}, {size:,} parameters"
    top = found.stack.top
    return f"{where}, {size:,} parameters frozen, {found.trained:,} trained in an adapter of rank {top.rank}"


def restore(
    origin: Origin, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> tuple[TrainState, Frozen | None, tuple[lora.Weights, ...]]:
    """Loads what the phase starts with, sharded over `mesh`.

    Returns:
        The state; the frozen weights, None where all weights are trained; and the weights of all adapters below the one
        that is trained, merged or not, for this phase's checkpoints.

    Raises:
        InputError: the checkpoint is damaged, its arrays have other shapes, or an adapter's base is not the right one.
    """
    model, checkpoint = origin.model, origin.checkpoint
    if checkpoint is None:
        return state.create(model, optimizer, mesh, jax.random.key(seed)), None, ()
    target = state.abstract(model, optimizer, mesh, origin.adapter)
    name = "params" if origin.stack is None else "adapter"
    weights: tuple[lora.Weights, ...] = ()
    if origin.found is not None:
        weights = adapters.load_weights(checkpoint, origin.found, model, mesh)
    frozen: Frozen | None = None
    below: tuple[lora.Weights, ...] = ()
    if origin.stack is not None:
        base = adapters.load_base(origin.stack, model, mesh, checkpoint)
        base = adapters.merge_below(base, origin.stack, weights)
        below = weights[: len(origin.stack.below)]
        frozen = state.freeze(base, adapters.beside(origin.stack, below), seed, mesh)
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
        return state.from_params(params, model, optimizer, mesh), None, ()
    if len(weights) > len(below):
        return state.from_params(weights[-1], model, optimizer, mesh, origin.adapter), frozen, below
    return state.create(model, optimizer, mesh, jax.random.key(seed), origin.adapter), frozen, below


def identified(origin: Origin, frozen: Frozen | None) -> Origin:
    """Returns the origin with the digests of its base, computed from the weights if no checkpoint has recorded them."""
    if origin.stack is None or frozen is None or origin.stack.base.digests:
        return origin
    base = dataclasses.replace(origin.stack.base, digests=digest(frozen.params))
    return dataclasses.replace(origin, stack=dataclasses.replace(origin.stack, base=base))


def _check_own_tokenizer(config: PhaseConfig, template: str | None, found: Start, checkpoint: Path) -> None:
    """Refuses to continue a run from scratch with another tokenizer or template than it began with."""
    given = read(config)
    assert given.tokenizer is not None and found.tokenizer is not None
    if given.tokenizer.sha256 != found.tokenizer.sha256:
        raise InputError(
            f"tokenizer {config.tokenizer} does not match {checkpoint} ({given.tokenizer.vocab_size} and "
            f"{found.tokenizer.vocab_size} ids); use the one the run began with, or another workdir"
        )
    first, now = (each.chat and each.chat.template for each in (start.decide(config, given, template), found))
    if (first and first.source) != (now and now.source):
        raise InputError(
            f"chat_template {config.chat_template or '(built-in)'} does not match {checkpoint}; "
            "use the one the run began with, or another workdir"
        )


def checkpoint_tree(origin: Origin, now: TrainState, below: Sequence[lora.Weights]) -> dict[str, Any]:
    """Returns the entries of this phase's checkpoint; one with adapters holds them without the base."""
    tree = {"opt_state": now.opt_state, "step": now.step}
    if origin.stack is None:
        return {"params": now.params, **tree}
    return {**adapters.tree(now.params, below), **tree}


def checkpoint_info(
    origin: Origin, config: PhaseConfig, checkpoint: Path, step: int, fingerprint: str, totals: Mapping[str, float]
) -> dict[str, Any]:
    """Returns the info of this phase's checkpoint after `step` steps, for a resume, sampling and the next phase."""
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
