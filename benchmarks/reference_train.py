"""The torch side of `train_step.py`; runs in the reference environment, which has torch and transformers."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from reference_decode import load, product
from torch.nn import functional


def main(directory: Path) -> None:
    """Answers the requests on standard input."""
    settings = json.loads((directory / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    transformers.logging.set_verbosity_error()
    trainer = Trainer(load(settings["model"], directory).train(), settings["optimizer"])
    trainer.batches = read_batches(directory, settings["batches"])
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        match request["do"]:
            case "run":
                start = time.perf_counter()
                trainer.take(request.get("steps", 1))
                answer = {"seconds": time.perf_counter() - start}
            case "choose":
                answer = {"tried": trainer.choose(request["steps"])}
            case "parts":
                took = np.median([trainer.step() for _ in range(request["steps"])], axis=0)
                answer = dict(zip(("forward and loss", "backward", "clipping and AdamW"), took.tolist(), strict=True))
            case "products":
                answer = {"seconds": sum(product(*each) for each in settings["products"])}
            case "end":
                how = f"torch {torch.__version__}, transformers {transformers.__version__}"
                answer = {"losses": trainer.losses[: settings["checked"]], "how": how}
        print(json.dumps(answer), flush=True)


def read_batches(directory: Path, count: int) -> list[dict[str, torch.Tensor]]:
    """Returns the rows as arguments of a causal model, and targets with -100 where there is no loss."""
    with np.load(directory / "rows.npz") as arrays:
        rows = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    segments = rows["segment_ids"]
    mask = (segments[:, :, None] == segments[:, None, :]).tril()
    # sdpa adds its mask to the scores; a boolean one it would have to turn into this form at every call.
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None]
    batch = {
        "input_ids": rows["tokens"].long(),
        "position_ids": rows["positions"].long(),
        "attention_mask": added,
        "targets": rows["targets"].long().masked_fill(~rows["loss_mask"], -100),
    }
    cut = {name: tensor.chunk(count) for name, tensor in batch.items()}
    return [{name: cut[name][i].contiguous() for name in cut} for i in range(count)]


class Trainer:
    """A model and its optimizer, with the fastest way of running them so far."""

    batches: list[dict[str, torch.Tensor]]

    def __init__(self, model: torch.nn.Module, settings: dict) -> None:
        self.model = model
        self.settings = settings
        self.parameters = list(model.parameters())
        self.losses: list[float] = []
        self.forward: Callable = self.loss
        self.optimizer = self.make_optimizer("fused")

    def make_optimizer(self, kind: str) -> torch.optim.Optimizer:
        """Returns AdamW as in this package: only matrices and embeddings decay."""
        s = self.settings
        decayed = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim == 1]
        groups = [{"params": decayed, "weight_decay": s["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
        how = {kind: True}
        return torch.optim.AdamW(groups, lr=s["learning_rate"], betas=(s["b1"], s["b2"]), eps=s["eps"], **how)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the mean loss over the masked targets."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "targets"}
        logits = self.model(**inputs, use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    def step(self) -> tuple[float, float, float]:
        """Takes one step; returns the seconds of forward pass with loss, of backward pass, and of optimizer."""
        marks = [time.perf_counter()]
        loss = self.forward(self.batches[len(self.losses) % len(self.batches)])
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["clip_norm"], foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        self.losses.append(loss.item())
        first, second, third = np.diff(marks)
        return first, second, third

    def take(self, steps: int) -> None:
        """Takes some steps."""
        for _ in range(steps):
            self.step()

    def choose(self, steps: int) -> dict[str, float]:
        """Returns the milliseconds per step of each way (best of three turns), and keeps the fastest way."""
        tried: dict[str, float] = {}
        ways: list[tuple[str, Callable, str]] = [
            ("eager, fused AdamW", self.loss, "fused"),
            ("eager, foreach AdamW", self.loss, "foreach"),
        ]
        if shutil.which("g++") or shutil.which("clang++"):
            ways.append(("compiled, fused AdamW", torch.compile(self.loss, dynamic=False), "fused"))
        for name, forward, kind in ways:
            self.forward, self.optimizer = forward, self.make_optimizer(kind)
            self.take(2)
            took = []
            for _ in range(3):
                start = time.perf_counter()
                self.take(steps)
                took.append(time.perf_counter() - start)
            tried[name] = round(1e3 * min(took) / steps, 1)
        best = min(tried, key=tried.__getitem__)
        _, self.forward, kind = next(way for way in ways if way[0] == best)
        self.optimizer = self.make_optimizer(kind)
        return tried


if __name__ == "__main__":
    main(Path(sys.argv[1]))
