"""The torch side of `gpu.py`: the same model in plain torch, its layers and its loss compiled.

Weights and moments are float32 and cast for each product, as ours are; with an adapter the base is frozen in the
compute dtype. Attention is torch's own, which takes flash attention for these shapes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

MODULES = {
    "query": "q_proj", "key": "k_proj", "value": "v_proj", "attention_out": "o_proj",
    "gate": "gate_proj", "up": "up_proj", "down": "down_proj",
}


class Linear(nn.Module):
    """A matrix [outputs, inputs] with an optional adapter."""

    def __init__(self, inputs: int, outputs: int, adapter: dict[str, Any] | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)
        self.scale = 0.0
        if adapter is not None:
            self.scale = adapter["alpha"] / adapter["rank"]
            self.a = nn.Parameter((2 * torch.rand(adapter["rank"], inputs) - 1) * inputs**-0.5)
            self.b = nn.Parameter(torch.zeros(outputs, adapter["rank"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x W, plus the adapter's update."""
        y = functional.linear(x, self.weight.to(x.dtype))
        if self.scale:
            low = functional.linear(x, self.a.to(x.dtype)) * self.scale
            y = y + functional.linear(low, self.b.to(x.dtype))
        return y


class Norm(nn.Module):
    """Root-mean-square norm in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the norm in the dtype of `x`."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * self.weight).to(x.dtype)


class Layer(nn.Module):
    """A layer: attention, then SwiGLU."""

    def __init__(self, c: dict[str, Any], adapter: dict[str, Any] | None) -> None:
        super().__init__()
        d, f, self.size = c["hidden_size"], c["intermediate_size"], c["head_dim"]
        heads, groups = c["num_heads"] * self.size, c["num_kv_heads"] * self.size
        on = {MODULES[name] for name in adapter["targets"]} if adapter else set()

        def made(shapes: dict[str, tuple[int, int]]) -> nn.ModuleDict:
            return nn.ModuleDict({n: Linear(*shape, adapter if n in on else None) for n, shape in shapes.items()})

        self.input_layernorm = Norm(d, c["rms_norm_eps"])
        self.post_attention_layernorm = Norm(d, c["rms_norm_eps"])
        attention = {"q_proj": (d, heads), "k_proj": (d, groups), "v_proj": (d, groups), "o_proj": (heads, d)}
        self.self_attn = made(attention)
        self.mlp = made({"gate_proj": (d, f), "up_proj": (d, f), "down_proj": (f, d)})

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Returns the residual stream [B, T, D]."""
        batch, length, _ = x.shape
        h = self.input_layernorm(x)
        q, k, v = (
            self.self_attn[name](h).view(batch, length, -1, self.size).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = (rotate(each, cos, sin) for each in (q, k))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.self_attn["o_proj"](out.transpose(1, 2).reshape(batch, length, -1))
        h = self.post_attention_layernorm(x)
        inner = functional.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h)
        return x + self.mlp["down_proj"](inner)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Applies rotary positions to the last axis, whose halves form pairs."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Model(nn.Module):
    """A model from tokens to the mean loss over targets; the embedding is also the output matrix."""

    def __init__(self, c: dict[str, Any], adapter: dict[str, Any] | None, length: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.recompute = dtype, False
        self.loss: Callable[..., torch.Tensor] = mean_loss  # an attribute, which a compiled one can take the place of
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=c["hidden_size"] ** -0.5)
        self.layers = nn.ModuleList(Layer(c, adapter) for _ in range(c["num_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])
        powers = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2, dtype=torch.float32) / c["head_dim"])
        angles = torch.arange(length, dtype=torch.float32)[:, None] * powers
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Returns the mean loss."""
        x = self.embed_tokens(tokens).to(self.dtype)
        for layer in self.layers:
            x = checkpoint(layer, x, self.cos, self.sin, use_reentrant=False) if self.recompute else layer(
                x, self.cos, self.sin
            )
        return self.loss(self.norm(x), self.embed_tokens.weight, targets)


def mean_loss(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the mean loss of hidden states."""
    logits = functional.linear(x, weight.to(x.dtype)).float()
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main(file: Path) -> None:
    """Trains, and prints the result that `gpu.py` reads."""
    settings = json.loads(file.read_text())
    case = settings["case"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, case["model"]["compute_dtype"])
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    with torch.device(device):
        model = Model(case["model"], settings["lora"] if case["lora"] else None, case["length"], dtype)
    if "weights" in settings:
        with np.load(settings["weights"]) as arrays:
            state = {name.removeprefix("model."): torch.from_numpy(arrays[name]) for name in arrays.files}
        left = model.load_state_dict(state, strict=False)
        assert not left.unexpected_keys and all(name.endswith((".a", ".b")) for name in left.missing_keys), left
    if case["lora"]:
        for name, parameter in model.named_parameters():
            if not name.endswith((".a", ".b")):
                parameter.requires_grad_(False)
                parameter.data = parameter.data.to(dtype)
    compiled = device == "cuda"
    if compiled:
        for layer in model.layers:
            layer.compile()
        model.loss = torch.compile(model.loss)
    ids = np.random.default_rng(0).integers(0, case["model"]["vocab_size"], (case["rows"][0], case["length"] + 1))
    ids = torch.from_numpy(ids).to(device)
    try:
        found = train(model, ids, settings)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model.recompute = True
        found = train(model, ids, settings)
    found["peak"] = torch.cuda.max_memory_allocated() if compiled else 0
    found["device"] = torch.cuda.get_device_name() if compiled else "cpu"
    found["how"] = (
        f"torch {torch.__version__}, {'compiled' if compiled else 'eager'}, "
        f"{'layers recomputed' if model.recompute else 'nothing recomputed'}"
    )
    print(json.dumps(found))


def train(model: Model, ids: torch.Tensor, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the seconds of each step and all losses; the first two steps are not timed."""
    s = settings["optimizer"]
    model.zero_grad(set_to_none=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": s["weight_decay"]},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=s["learning_rate"], betas=(s["b1"], s["b2"]), eps=s["eps"], fused=True)
    seconds, losses = [], []
    for _ in range(settings["steps"] + 2):
        began = time.perf_counter()
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, s["clip_norm"], foreach=True)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if ids.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[2:], "losses": losses}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
