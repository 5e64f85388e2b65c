"""Reads and writes PEFT's adapter directories, which hold adapter_config.json and adapter_model.safetensors.

Their tensors are `base_model.model.model.layers.N.MODULE.lora_A.weight` [r, inputs] and `lora_B.weight` [outputs, r].
Ours are the transposes, with the layers stacked.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from msm_jax.data import templates, tokenizers
from msm_jax.data.templates import TEMPLATE_FILE
from msm_jax.errors import InputError
from msm_jax.foundation import storage
from msm_jax.models import lora, parameters
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig

log = logging.getLogger(__name__)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLED_FILE = "adapter_model.bin"
_TENSOR = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(\w+\.\w+)\.lora_([AB])\.weight")
# Fields that change what an adapter computes or what it is applied to, unless they have one of these values.
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    # Other values also change the base's weights.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}


def is_directory(path: Path) -> bool:
    """Returns whether `path` is a PEFT directory."""
    return (path / CONFIG_FILE).is_file()


def read(directory: Path, model: ModelConfig) -> tuple[LoraConfig, lora.Weights]:
    """Reads the settings and the float32 numpy weights of an adapter for a model of this shape.

    The tensors say which matrices it is applied to, so that `target_modules` may be a list, a pattern or "all-linear".
    A layer that `layers_to_transform` leaves out gets zeros, which training does not change.

    Raises:
        InputError: a file is missing or damaged, the kind of adapter is not supported, or a tensor does not fit the
            model.
    """
    settings = _settings(directory / CONFIG_FILE)
    file = directory / WEIGHTS_FILE
    if not file.is_file() and (directory / _PICKLED_FILE).is_file():
        raise InputError(f"{directory / _PICKLED_FILE}: is a pickle, which may run code; save it as {WEIGHTS_FILE}")
    try:
        tensors = safetensors_numpy.load_file(file)
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; copy the weights of the adapter there") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{file}: is damaged or cut off ({error}); copy it again") from error
    rank = settings["r"]
    found = _sorted(tensors, model, file)
    targets = tuple(target for target in lora.targets() if any(key[0] == target for key in found))
    if not targets:
        raise InputError(f"{file}: holds no tensor of an adapter; copy it again")
    scale = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    config = LoraConfig(rank, scale * rank, targets, float(settings.get("lora_dropout", 0.0)))
    only = settings.get("layers_to_transform")
    given = range(model.num_layers) if only is None else {only} if isinstance(only, int) else set(only)
    weights: dict[str, dict[str, np.ndarray]] = {}
    for target in targets:
        inputs, outputs = lora.sizes(model, target)
        weights[target] = {
            "a": np.zeros((model.num_layers, inputs, rank), np.float32),
            "b": np.zeros((model.num_layers, rank, outputs), np.float32),
        }
        for layer in given:
            for side, stacked in weights[target].items():
                stacked[layer] = _tensor(tensors, found, (target, layer, side), stacked.shape[1:], file)
    return config, {"layers": weights}


def _settings(file: Path) -> dict[str, Any]:
    """Reads adapter_config.json; refuses settings that are not supported."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{file}: is not a JSON object; copy it again")
    for name, allowed in _MUST_BE.items():
        value = settings.get(name, allowed[0])
        if value not in allowed and not (value is None and allowed[0] in ({}, False)):
            raise InputError(f"{file}: {name} is {value!r}; only {allowed[0]!r} is supported")
    for name, kinds in (("r", (int,)), ("lora_alpha", (int, float))):
        value = settings.get(name)
        if not isinstance(value, kinds) or isinstance(value, bool) or value <= 0:
            raise InputError(f"{file}: {name} is {value!r}; it must be a positive number")
    return settings


def _sorted(
    tensors: Mapping[str, np.ndarray], model: ModelConfig, file: Path
) -> dict[tuple[str, int, str], str]:
    """Maps (target, layer, "a" or "b") to the name of the tensor."""
    targets = {_module(target): target for target in lora.targets()}
    found = {}
    for name in tensors:
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] not in targets:
            raise InputError(f"{file}: tensor {name} does not belong to an adapter on attention and MLP matrices")
        if int(match[1]) >= model.num_layers:
            raise InputError(f"{file}: tensor {name} belongs to no layer of the base, which has {model.num_layers}")
        found[targets[match[2]], int(match[1]), match[3].lower()] = name
    return found


def _tensor(
    tensors: Mapping[str, np.ndarray],
    found: Mapping[tuple[str, int, str], str],
    key: tuple[str, int, str],
    shape: tuple[int, ...],
    file: Path,
) -> np.ndarray:
    target, layer, side = key
    if key not in found:
        name = f"{_prefix(target, layer)}.lora_{side.upper()}.weight"
        raise InputError(f"{file}: tensor {name} is missing, although the base has this layer; copy the file again")
    tensor = tensors[found[key]]
    if tensor.shape != shape[::-1]:
        raise InputError(
            f"{file}: tensor {found[key]} is {tensor.shape}, but the base needs {shape[::-1]}; "
            "use the base it was trained on"
        )
    if not np.isfinite(tensor).all():
        raise InputError(f"{file}: tensor {found[key]} is not finite; the adapter was saved from a failed run")
    return tensor.T.astype(np.float32)


def _module(target: str) -> str:
    """Returns the name of the linear layer that holds a matrix in transformers, such as "self_attn.q_proj"."""
    return parameters.find(target).hf_name.removesuffix(".weight")


def _prefix(target: str, layer: int) -> str:
    return f"base_model.model.model.layers.{layer}.{_module(target)}"


def assets(directory: Path, base: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns the base's assets, in which the adapter's tokenizer and chat template replace the base's.

    The adapter was trained with them. A different template is logged.
    """
    names = (*tokenizers.FILES, TEMPLATE_FILE)
    own = {name: (directory / name).read_bytes() for name in names if (directory / name).is_file()}
    kept = dict(base)
    if tokenizers.JSON_FILE in own or tokenizers.MODEL_FILE in own:
        kept = {name: data for name, data in kept.items() if name not in tokenizers.FILES}
        kept |= {name: data for name, data in own.items() if name in tokenizers.FILES}
    source = templates.find_source_in(directory, own)
    template = source and source.encode("utf-8")
    if template and template != base.get(TEMPLATE_FILE):
        log.warning("%s: has a chat template of its own, which replaces the base's", directory)
        kept[TEMPLATE_FILE] = template
    return kept


def write(
    directory: Path, config: LoraConfig, weights: lora.Weights, base_name: str, files: Mapping[str, bytes]
) -> None:
    """Writes an adapter in PEFT's format into an empty directory.

    Args:
        directory: exists and is empty.
        config: the adapter's settings.
        weights: the adapter's float32 numpy arrays.
        base_name: the value of `base_model_name_or_path`.
        files: tokenizer, chat template and model card, which are also written to the directory.

    Raises:
        OSError: a file cannot be written.
    """
    tensors = {}
    for target, pair in weights["layers"].items():
        for side, stacked in pair.items():
            for layer, matrix in enumerate(np.asarray(stacked, np.float32)):
                name = f"{_prefix(target, layer)}.lora_{side.upper()}.weight"
                tensors[name] = np.ascontiguousarray(matrix.T)
    alpha = int(config.alpha) if float(config.alpha).is_integer() else config.alpha
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "target_modules": [_module(target).rpartition(".")[2] for target in config.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    for name, data in files.items():
        (directory / name).write_bytes(data)
    storage.write_json(directory / CONFIG_FILE, settings)
    safetensors_numpy.save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})


def joined(configs: Sequence[LoraConfig], weights: Sequence[lora.Weights]) -> tuple[LoraConfig, lora.Weights]:
    """Returns one adapter that adds what several adapters add: ranks are concatenated, and `b` includes the scales."""
    if len(configs) == 1:
        return configs[0], weights[0]
    rank = sum(config.rank for config in configs)
    targets = tuple(target for target in lora.targets() if any(target in config.targets for config in configs))
    layers: dict[str, Any] = {}
    for target in targets:
        like = next(each["layers"][target] for each in weights if target in each["layers"])
        layers[target] = {}
        for side, axis in (("a", 2), ("b", 1)):
            parts = []
            for config, each in zip(configs, weights, strict=True):
                shape = list(np.shape(like[side]))
                shape[axis] = config.rank
                part = np.asarray(each["layers"][target][side]) if target in each["layers"] else np.zeros(shape)
                parts.append(part * config.scale if side == "b" else part)
            layers[target][side] = np.concatenate(parts, axis=axis).astype(np.float32)
    return LoraConfig(rank, float(rank), targets, configs[-1].dropout), {"layers": layers}
