"""Run by the reference interpreter, benchmarks/ on its path: adapters by peft, and a few steps of torch's AdamW.

    parity_lora.py adapters DIR    for each model DIR/*/hf: makes the adapters that DIR/adapters.json describes, in
                                   DIR/*/theirs/*; logits of DIR/tokens.npy with each of these, with each adapter
                                   DIR/*/ours/* beside the base and merged, and of each model in DIR/*/merged/*
    parity_lora.py train DIR       DIR/train.json says how; trains DIR/adapter on the Llama DIR/hf -> DIR/adapter32, and
                                   all weights of DIR/hf -> DIR/full32, on DIR/rows.npz; both again in float64 ->
                                   DIR/adapter64 and DIR/full64; losses -> DIR/losses.json
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from reference_train import Trainer, read_batches


def load(directory: Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def adapters(directory: Path) -> None:
    tokens = torch.from_numpy(np.load(directory / "tokens.npy")).long()

    def save(model: torch.nn.Module, path: Path) -> None:
        with torch.no_grad():
            np.save(path, model.eval()(tokens).logits.numpy())

    for base in sorted(directory.glob("*/hf")):
        folder = base.parent
        for name, settings in json.loads((directory / "adapters.json").read_text()).items():
            torch.manual_seed(0)
            model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **settings))
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.data.normal_(std=0.1)
            model.save_pretrained(folder / "theirs" / name)
            save(model, folder / "theirs" / f"{name}.npy")
        for path in sorted((folder / "ours").iterdir()):
            model = PeftModel.from_pretrained(load(base), path)
            save(model, path.with_suffix(".npy"))
            save(model.merge_and_unload(), path.with_suffix(".merged.npy"))
        for path in sorted((folder / "merged").iterdir()):
            save(load(path), path.with_suffix(".npy"))


def train(directory: Path) -> None:
    settings = json.loads((directory / "train.json").read_text())
    losses = {}
    for dtype, bits in ((torch.float32, 32), (torch.float64, 64)):
        for kind in ("adapter", "full"):
            model = load(directory / "hf")
            if kind == "adapter":
                model = PeftModel.from_pretrained(model, directory / "adapter", is_trainable=True)
            trainer = Trainer(model.to(dtype).train(), settings["optimizer"])
            cut = read_batches(directory, settings["steps"])
            trainer.batches = [{n: t.to(dtype) if t.is_floating_point() else t for n, t in b.items()} for b in cut]
            with contextlib.nullcontext() if bits == 32 else exact_llama():
                trainer.take(settings["steps"])
            losses[f"{kind}{bits}"] = trainer.losses
            model.float().save_pretrained(directory / f"{kind}{bits}")
    (directory / "losses.json").write_text(json.dumps(losses))


@contextlib.contextmanager
def exact_llama() -> Iterator[None]:
    """Within, the parts of a Llama that transformers computes in float32 whatever its dtype are in its dtype."""

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.config.head_dim // 2
        theta = self.config.rope_parameters["rope_theta"]
        frequencies = theta ** (-torch.arange(half, dtype=x.dtype) / half)
        angles = position_ids[..., None].to(x.dtype) * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    llama = transformers.models.llama.modeling_llama
    with (
        mock.patch.object(llama.LlamaRMSNorm, "forward", norm),
        mock.patch.object(llama.LlamaRotaryEmbedding, "forward", rotary),
    ):
        yield


if __name__ == "__main__":
    {"adapters": adapters, "train": train}[sys.argv[1]](Path(sys.argv[2]))
