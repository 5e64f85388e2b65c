"""Run by the reference interpreter, benchmarks/ on its path: adapters by peft, and a few steps of torch's AdamW.

    parity_lora.py adapters DIR    for each model DIR/*/hf: makes the adapters that DIR/adapters.json describes, in
                                   DIR/*/theirs/*; logits of DIR/tokens.npy with each of these, with each adapter
                                   DIR/*/ours/* beside the base and merged, and of each model in DIR/*/merged/*
    parity_lora.py train DIR       DIR/train.json says how; trains DIR/adapter on DIR/hf -> DIR/trained, and all
                                   weights of DIR/hf -> DIR/full, on DIR/rows.npz; losses -> DIR/losses.json
"""

import json
import sys
from pathlib import Path

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
    thin = PeftModel.from_pretrained(load(directory / "hf"), directory / "adapter", is_trainable=True)
    losses = {"adapter": steps(thin, directory, settings)}
    thin.save_pretrained(directory / "trained")
    full = load(directory / "hf")
    losses["full"] = steps(full, directory, settings)
    full.save_pretrained(directory / "full")
    (directory / "losses.json").write_text(json.dumps(losses))


def steps(model: torch.nn.Module, directory: Path, settings: dict) -> list[float]:
    trainer = Trainer(model.train(), settings["optimizer"])
    trainer.batches = read_batches(directory, settings["steps"])
    trainer.take(settings["steps"])
    return trainer.losses


if __name__ == "__main__":
    {"adapters": adapters, "train": train}[sys.argv[1]](Path(sys.argv[2]))
