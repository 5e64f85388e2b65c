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


def main(directory: Path) -> None:
    """Answers the requests on standard input."""
    settings, model = opened(directory)
    queue = settings["queue"]
    for line in sys.stdin:
        asked = json.loads(line)
        some = queue[: asked["requests"]]
        generate(model, queue[:1])
        tried = {size: timed(model, some, size) for size in asked["batches"]}
        best = min(tried, key=lambda size: tried[size][0])
        answer = {
            "seconds": tried[best][0],
            "processor": tried[best][1],
            "requests": len(some),
            "tried": {size: len(some) / seconds for size, (seconds, _) in tried.items()},
            "how": f"torch {torch.__version__}, transformers {transformers.__version__}, batch {best}",
        }
        print(json.dumps(answer), flush=True)


def timed(model: torch.nn.Module, queue: list, size: int) -> tuple[float, float]:
    """Returns the wall and processor seconds of answering the queue in batches of `size`."""
    used, start = processor_seconds(), time.perf_counter()
    for begin in range(0, len(queue), size):
        generate(model, queue[begin : begin + size])
    return time.perf_counter() - start, processor_seconds() - used


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
