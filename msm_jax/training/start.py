"""The decision how a phase starts, from its settings and from what its parent checkpoint says of itself.

`decide` is a pure function. Training, planning, the checks before an experiment and the check of a phase's data all
call it, whether the parent checkpoint exists or will be written by the phase before. A chain of phases is decided ahead
of time by giving each phase what the one before it will write:

    parent = origin.read(configs[0])    # or of_new_tokenizer(vocab_size), or a `Parent` of what is known
    for config in configs:
        found = decide(config, parent, chat.read(config.chat_template))
        parent = found.checkpoint(name, config.steps)

`chain` does this where all template files exist. In a `Parent` and in a `Start`, None stands for what is not known;
only what is known to be wrong is refused. Every refusal begins with a field of `PhaseConfig` or with a path, so that a
caller can put "phases.NAME." before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msm_jax.checkpoints.adapters import StackedAdapter
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig
from msm_jax.models.presets import preset
from msm_jax.training import chat
from msm_jax.training.chat import PhaseTemplate
from msm_jax.training.config import PhaseConfig


@dataclass(frozen=True)
class Parent:
    """What a checkpoint, or a tokenizer directory, says of itself. A field is None where that is not known yet.

    Attributes:
        name: how messages name it.
        model: the shape of the model, and how it is run.
        adapters: the adapters of the checkpoint, bottom first; () where it holds a model's own weights.
        tokenizer: the tokenizer.
        chat: the chat template, and the hash of the one that it replaced.
        step: the number of finished optimizer steps.
        assets: the tokenizer and template files, and files that travel with them.
        vocab_size: the number of ids of a tokenizer that is not trained yet.
    """

    name: str
    model: ModelConfig | None = None
    adapters: tuple[StackedAdapter, ...] | None = None
    tokenizer: Tokenizer | None = None
    chat: PhaseTemplate | None = None
    step: int | None = None
    assets: Mapping[str, bytes] = field(default_factory=dict)
    vocab_size: int | None = None


def of_new_tokenizer(vocab_size: int) -> Parent:
    """Returns what is known of a tokenizer that `data.tokenizers` will train: its size and its chat template."""
    return Parent("the tokenizer", adapters=(), chat=PhaseTemplate(ChatTemplate()), step=0, vocab_size=vocab_size)


@dataclass(frozen=True)
class Start:
    """How a phase starts. A field is None where it is not known.

    Attributes:
        model: the shape of the model, and how it is run.
        adapters: the adapters of the checkpoints that the phase writes, bottom first, the last one trained; () where it
            trains all weights. Adapters below those of a parent that is not known are missing.
        tokenizer: the tokenizer.
        chat: the chat template, the hash of the one that it replaces, and notices for the user.
        base_dtype: the dtype of the frozen weights, "" where the phase trains all weights.
        assets: the files that the phase's checkpoints carry; empty where the tokenizer or the template is not known.
    """

    model: ModelConfig | None
    adapters: tuple[StackedAdapter, ...]
    tokenizer: Tokenizer | None
    chat: PhaseTemplate | None
    base_dtype: str
    assets: Mapping[str, bytes]

    @property
    def adapter(self) -> LoraConfig | None:
        """The adapter that the phase trains, None where it trains all weights."""
        return self.adapters[-1].config if self.adapters else None

    @property
    def beside(self) -> tuple[LoraConfig, ...]:
        """The frozen adapters that are applied beside the base, bottom first."""
        return tuple(each.config for each in self.adapters[:-1] if not each.merged)

    def checkpoint(self, name: str, step: int) -> Parent:
        """Returns what the checkpoint that the phase writes after `step` steps will say of itself."""
        kept = None if self.chat is None else dataclasses.replace(self.chat, notices=())
        return Parent(name, self.model, self.adapters, self.tokenizer, kept, step, self.assets)


def decide(config: PhaseConfig, parent: Parent, template: str | None = None, *, resumes: bool = False) -> Start:
    """Decides how a phase starts; reads no file.

    Args:
        config: the phase.
        parent: its parent checkpoint, or for a phase from scratch its tokenizer directory.
        template: the text of the file `config.chat_template`; None where there is none or it is not known.
        resumes: whether `parent` is a checkpoint of this phase itself, from which it continues.

    Raises:
        InputError: the settings do not fit what is known of the parent.
    """
    found = chat.decide(config, parent.chat, parent.name, template, resumes=resumes)
    adapters = (parent.adapters or ()) if resumes else _adapters(config, parent)
    if config.init.mode == "scratch" and not resumes:
        ids = parent.vocab_size if parent.tokenizer is None else parent.tokenizer.vocab_size
        sizes = {} if ids is None else {"vocab_size": ids}
        model: ModelConfig | None = preset(config.preset, **{**sizes, **config.model_overrides})
    else:
        model = None if parent.model is None else parent.model.overridden(config.model_overrides)
    _check_fit(config, model, parent.tokenizer)
    if config.init.mode == "state" and not resumes and parent.step is not None:
        _check_steps(config, parent.name, parent.step)
    assets: Mapping[str, bytes] = {}
    if parent.tokenizer is not None and found is not None:
        assets = chat.assets(parent.assets, parent.tokenizer, found.template)
    return Start(model, adapters, parent.tokenizer, found, config.base_dtype if adapters else "", assets)


def chain(configs: Sequence[PhaseConfig], parent: Parent) -> Start:
    """Decides how the last phase of a chain starts, before the phases ahead of it are trained.

    Args:
        configs: the phases from the first to the one asked for.
        parent: what the first one starts from.

    Raises:
        InputError: as `decide`, or a template file cannot be read.
    """
    for config in configs[:-1]:
        start = decide(config, parent, chat.read(config.chat_template))
        parent = start.checkpoint(f"the checkpoint of {config.name}", config.steps)
    return decide(configs[-1], parent, chat.read(configs[-1].chat_template))


def _adapters(config: PhaseConfig, parent: Parent) -> tuple[StackedAdapter, ...]:
    """Decides the adapters of the phase from those of its parent."""
    found = parent.adapters
    if found == () and config.init.base:
        raise InputError(f"init.base is set, but {parent.name} holds no adapter; leave it empty")
    if config.lora is None:
        if found and config.adapter != "merge":
            raise InputError(
                f"lora is not set, but {parent.name} holds an adapter; set lora to train one, or "
                'adapter = "merge" to train all weights'
            )
        return ()
    own = StackedAdapter(config.lora)
    if not found:
        if found == () and config.init.mode == "state":
            raise InputError(
                f'init.mode = "state", but {parent.name} holds no adapter whose state could be continued; set '
                'init.mode = "params"'
            )
        return (own,)
    if config.adapter == "continue":
        for name in ("rank", "alpha", "targets"):
            asked, has = getattr(config.lora, name), getattr(found[-1].config, name)
            if asked != has:
                raise InputError(
                    f"lora.{name} = {asked!r}, but the adapter in {parent.name} has {has!r}; "
                    'set it to that, or adapter = "stack" or "merge" for a fresh one'
                )
        return (*found[:-1], own)
    merged = config.adapter == "merge"
    return (*(StackedAdapter(each.config, merged or each.merged) for each in found), own)


def _check_fit(config: PhaseConfig, model: ModelConfig | None, tokenizer: Tokenizer | None) -> None:
    if model is not None and tokenizer is not None and model.vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"tokenizer: it has {tokenizer.vocab_size} ids, but the model's vocab_size is {model.vocab_size}; the "
            "tokenizer does not match the model"
        )
    if model is not None and config.data.seq_len > model.max_position_embeddings:
        raise InputError(
            f"data.seq_len = {config.data.seq_len} is above the model's max_position_embeddings = "
            f"{model.max_position_embeddings}; lower it to at most that"
        )


def _check_steps(config: PhaseConfig, name: str, done: int) -> None:
    if done >= config.steps:
        raise InputError(
            f"steps = {config.steps}, but {name} has already done {done}; with "
            'init.mode = "state" steps counts on from there'
        )
    if config.keep_steps and min(config.keep_steps) <= done:
        raise InputError(
            f"keep_steps: {name} has already done {done} steps, so that step {min(config.keep_steps)} cannot be kept; "
            f"name steps above {done}"
        )
