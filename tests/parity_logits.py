"""Run by the reference interpreter, benchmarks/ on its path: logits of a transformers model on given weights."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from reference_decode import load


def main(directory: Path) -> None:
    settings = json.loads((directory / "settings.json").read_text())
    model = load(settings, directory)
    tokens = torch.from_numpy(np.load(directory / "tokens.npy")).long()
    with torch.no_grad():
        np.save(directory / "logits.npy", model(tokens).logits.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
