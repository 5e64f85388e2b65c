"""The torch side of `engine.py`: `generate` on batches in the order of arrival; runs in the reference environment."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from reference_decode import opened

# Requests on which each batch size is tried.
TRIED = 32


def main(directory: Path) -> None:
    """Answers the requests on standard input."""
    settings, model = opened(directory)
    queue = settings["queue"]
    for line in sys.stdin:
        asked = json.loads(line)
        generate(model, queue[:2])
        tried = {}
        for size in asked["batches"]:
            start = time.perf_counter()
            run(model, queue[:TRIED], size)
            tried[size] = min(TRIED, len(queue)) / (time.perf_counter() - start)
        best = max(tried, key=lambda size: tried[size])
        used, start = processor_seconds(), time.perf_counter()
        run(model, queue, best)
        answer = {
            "seconds": time.perf_counter() - start,
            "processor": processor_seconds() - used,
            "requests": len(queue),
            "tried": tried,
            "how": f"torch {torch.__version__}, transformers {transformers.__version__}, batch {best}",
        }
        print(json.dumps(answer), flush=True)


def run(model: torch.nn.Module, queue: list, size: int) -> None:
    """Answers the queue in batches of `size`."""
    for begin in range(0, len(queue), size):
        generate(model, queue[begin : begin + size])


def generate(model: torch.nn.Module, batch: list) -> np.ndarray:
    """Returns the greedy replies to a batch, all as long as the longest that is asked for."""
    longest, new = max(len(prompt) for prompt, _ in batch), max(new for _, new in batch)
    tokens, mask = np.zeros((2, len(batch), longest), np.int64)
    for row, (prompt, _) in enumerate(batch):
        tokens[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    out = model.generate(
        torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask), max_new_tokens=new, min_new_tokens=new,
        do_sample=False, pad_token_id=0,
    )
    return out[:, longest:].numpy()


def processor_seconds() -> float:
    """Returns the processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(Path(sys.argv[1]))
