"""What a phase starts from, as far as it is known: a checkpoint, or for a phase from scratch a tokenizer directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msm_jax.checkpoints import adapters, store
from msm_jax.checkpoints.adapters import Layer
from msm_jax.data import templates
from msm_jax.data.templates import DEFAULT_TEMPLATE, GENERATION_FILE, TEMPLATE_FILE, ChatTemplate
from msm_jax.data.tokenizers import CHAT_MARKERS, FILES, JSON_FILE, MODEL_FILE, Tokenizer
from msm_jax.errors import InputError
from msm_jax.models.config import ModelConfig
from msm_jax.training.chat import PhaseTemplate
from msm_jax.training.config import PhaseConfig


@dataclass(frozen=True)
class Parent:
    """What a checkpoint, or a tokenizer directory, says of itself. A field is None where that is not known yet.

    Attributes:
        name: how messages name it.
        model: the shape of the model, and how it is run.
        layers: the adapters of the checkpoint, bottom first; () where it holds a model's own weights.
        tokenizer: the tokenizer.
        chat: the chat template, and the hash of the one that it replaced.
        step: the number of finished optimizer steps.
        assets: the tokenizer and template files, and files that travel with them.
        vocab_size: the number of ids of a tokenizer that is not trained yet.
    """

    name: str
    model: ModelConfig | None = None
    layers: tuple[Layer, ...] | None = None
    tokenizer: Tokenizer | None = None
    chat: PhaseTemplate | None = None
    step: int | None = None
    assets: Mapping[str, bytes] = field(default_factory=dict)
    vocab_size: int | None = None


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
    layers = () if stack is None else stack.layers
    return Parent(str(path), model, layers, tokenizer, PhaseTemplate(template, replaced), step, assets)


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
    chat = None
    if not chat_template:
        source = templates.find_source_in(Path(directory), files)
        if source is None and set(CHAT_MARKERS) <= tokenizer.specials.keys():
            source = DEFAULT_TEMPLATE
        chat = PhaseTemplate(None if source is None else ChatTemplate(source))
    return Parent(directory, None, (), tokenizer, chat, 0, files)


def of_new_tokenizer(vocab_size: int) -> Parent:
    """Returns what is known of a tokenizer that is still to be trained by us: its size and its chat template."""
    return Parent("the tokenizer", layers=(), chat=PhaseTemplate(ChatTemplate()), step=0, vocab_size=vocab_size)
