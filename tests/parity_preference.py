"""Run by the reference interpreter, benchmarks/ on its path: steps of TRL's DPO trainer on the Llama DIR/hf.

    parity_preference.py DIR    DIR/pairs.json has the ids of each step's pairs, DIR/train.json says how. Trains all
                                weights -> DIR/full32, and DIR/adapter -> DIR/adapter32; both in float64 -> DIR/full64
                                and DIR/adapter64; losses -> DIR/losses.json, the gradients of the first step ->
                                DIR/full32.grads.npz and so on
"""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
import trl
from datasets import Dataset
from parity_lora import exact_llama, load
from peft import PeftModel
from reference_train import Trainer
from trl.trainer.dpo_trainer import DataCollatorForPreference


def opened(directory: Path, kind: str, settings: dict) -> trl.DPOTrainer:
    """A trainer of TRL's; its own data is not used, since the ids are given."""
    model, reference = load(directory / "hf"), load(directory / "hf")
    # Torch leaves the row of the padding token out of the gradient of the lookup. SmolLM2 pads with its end of turn,
    # which is in every prompt.
    model.get_input_embeddings().padding_idx = None
    if kind == "adapter":
        model, reference = PeftModel.from_pretrained(model, directory / "adapter", is_trainable=True), None
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 2, "</s>": 3}, unk_token="a"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    args = trl.DPOConfig(
        output_dir=str(directory / "trl"), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
        beta=settings["beta"], label_smoothing=settings["label_smoothing"], loss_type=[settings["loss_type"]],
        disable_dropout=True,
    )
    return trl.DPOTrainer(
        model=model, ref_model=reference, args=args,
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}]),
        processing_class=transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, eos_token="</s>", pad_token="</s>"
        ),
    )


def train(directory: Path, kind: str, dtype: torch.dtype, name: str) -> list[float]:
    settings = json.loads((directory / "train.json").read_text())
    trainer = opened(directory, kind, settings)
    model = trainer.model.to(dtype).train()
    if trainer.ref_model is not None:
        trainer.ref_model.to(dtype)
    if trainer.ref_model is None and "ref" in model.peft_config:
        # TRL copies an adapter that it is given as the reference; here the reference is the base.
        model.delete_adapter("ref")
    ours = Trainer(model, settings["optimizer"])
    ours.parameters = [p for p in model.parameters() if p.requires_grad]
    ours.optimizer = ours.make_optimizer("fused")
    losses = []
    collate = DataCollatorForPreference(pad_token_id=0)
    for step, pairs in enumerate(json.loads((directory / "pairs.json").read_text())):
        with contextlib.nullcontext() if dtype == torch.float32 else exact_llama():
            loss = trainer.compute_loss(model, collate(pairs))
            ours.optimizer.zero_grad()
            loss.backward()
        losses.append(loss.item())
        if step == 0:
            grads = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
            np.savez(directory / f"{name}.grads.npz", **grads)
        torch.nn.utils.clip_grad_norm_(ours.parameters, settings["optimizer"]["clip_norm"])
        ours.optimizer.step()
    model.float().save_pretrained(directory / name)
    return losses


if __name__ == "__main__":
    root = Path(sys.argv[1])
    found = {
        f"{kind}{bits}": train(root, kind, dtype, f"{kind}{bits}")
        for kind in ("adapter", "full")
        for dtype, bits in ((torch.float32, 32), (torch.float64, 64))
    }
    (root / "losses.json").write_text(json.dumps(found))
