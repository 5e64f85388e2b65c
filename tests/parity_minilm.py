"""Run by the reference interpreter: what transformers and `datasets` make of our inputs.

    parity_minilm.py embed MODEL DIR    the embeddings of DIR/texts.json by the model in MODEL -> DIR/embeddings.npy
    parity_minilm.py load FILE ...      loads each file with `datasets` and prints its columns and rows as JSON
"""

import json
import sys
from pathlib import Path


def embed(model_directory: Path, directory: Path) -> None:
    import numpy as np
    import tokenizers
    import torch
    import transformers
    from safetensors.torch import load_file

    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=512, layer_norm_eps=1e-12,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    model.load_state_dict(load_file(model_directory / "model.safetensors"), strict=False)
    tokenizer = tokenizers.Tokenizer.from_file(str(model_directory / "tokenizer.json"))
    tokenizer.no_padding()
    rows = []
    for text in json.loads((directory / "texts.json").read_text()):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0)
        rows.append((mean / mean.norm()).numpy())
    np.save(directory / "embeddings.npy", np.stack(rows))


def load(*files: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    found = []
    for file in files:
        cache = str(file.parent / "cache")
        loaded = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
        found.append({"columns": sorted(loaded.column_names), "rows": loaded.num_rows, "first": loaded[0]})
    print(json.dumps(found))


if __name__ == "__main__":
    {"embed": embed, "load": load}[sys.argv[1]](*map(Path, sys.argv[2:]))
