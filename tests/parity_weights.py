"""Run by the reference interpreter: transformers models with random weights, and what transformers computes.

    parity_weights.py make DIR       DIR/*/config.json says what to build; writes checkpoints DIR/*/hf and the logits
                                     [B, T, V] of DIR/tokens.npy, DIR/*/logits.npy
    parity_weights.py logits DIR     loads the checkpoint DIR/hf; logits of DIR/tokens.npy -> DIR/logits.npy
    parity_weights.py greedy DIR     continues each row of tokens.npy: ids and the gap of the top two logits
    parity_weights.py inspect DIR    loads configuration and tokenizer of DIR/*/hf -> DIR/*/seen.json
    parity_weights.py gguf DIR FILE  reads a GGUF file with transformers' own importer -> tensors.safetensors
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file


def make(directory: Path) -> None:
    for config in sorted(directory.glob("*/config.json")):
        build(config.parent)
        logits(config.parent, directory / "tokens.npy")


def build(directory: Path) -> None:
    asked = json.loads((directory / "config.json").read_text())
    old = asked.pop("old_rope", False)
    config = getattr(transformers, f"{asked.pop('family')}Config")(**asked)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory / "hf", max_shard_size="60KB")
    if old:
        path = directory / "hf" / "config.json"
        written = json.loads(path.read_text())
        rope = written.pop("rope_parameters")
        written["rope_theta"] = rope.pop("rope_theta")
        rope["type"] = rope.pop("rope_type")
        path.write_text(json.dumps(written | {"rope_scaling": None if rope["type"] == "default" else rope}))


def load(directory: Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(directory / "hf", dtype=torch.float32).eval()


def logits(directory: Path, file: Path | None = None) -> None:
    tokens = torch.from_numpy(np.load(file or directory / "tokens.npy")).long()
    with torch.no_grad():
        np.save(directory / "logits.npy", load(directory)(tokens).logits.numpy())


def greedy(directory: Path) -> None:
    model, new = load(directory), 64
    rows, gaps = [], []
    for prompt in json.loads((directory / "prompts.json").read_text()):
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=new, min_new_tokens=new, do_sample=False, output_logits=True,
            return_dict_in_generate=True, eos_token_id=-1, pad_token_id=0,
        )  # fmt: skip
        best = torch.stack([each[0].topk(2).values for each in out.logits])
        rows.append(out.sequences[0, len(prompt) :].tolist())
        gaps.append((best[:, 0] - best[:, 1]).tolist())
    (directory / "greedy.json").write_text(json.dumps({"ids": rows, "gaps": gaps}))


def inspect(directory: Path) -> None:
    for path in sorted(directory.glob("*/hf")):
        config = transformers.AutoConfig.from_pretrained(path)
        generation = transformers.GenerationConfig.from_pretrained(path)
        seen = {"config": config.to_dict(), "generation": generation.to_dict()}
        if (path / "tokenizer.json").is_file():
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            chat = [{"role": "user", "content": "Hello"}]
            rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            texts = json.loads((directory / "texts.json").read_text())
            seen |= {"ids": [tokenizer.encode(text) for text in texts], "chat": rendered, "eos": tokenizer.eos_token}
        (path.parent / "seen.json").write_text(json.dumps(seen, default=str))


def gguf(directory: Path, file: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    held = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(held, directory / "tensors.safetensors")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    {"make": make, "logits": logits, "greedy": greedy, "inspect": inspect, "gguf": gguf}[sys.argv[1]](
        *map(Path, sys.argv[2:])
    )
