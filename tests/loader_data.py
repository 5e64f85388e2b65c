"""Files of documents and chats with loaders that read them, for the tests of the loader and of the token cache."""

import dataclasses
import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from msm_jax.data import sources
from msm_jax.data.config import DataConfig, SourceConfig
from msm_jax.data.encoding import encode_chat
from msm_jax.data.loader import Batch, Loader
from msm_jax.data.templates import ChatTemplate
from msm_jax.data.tokenizers import Tokenizer

TEMPLATE = ChatTemplate()
SEQ_LEN = 48


@dataclasses.dataclass
class Data:
    """A source of documents, some longer than a row, and a source of chats."""

    root: Path
    tokenizer: Tokenizer

    @property
    def sources(self) -> dict[str, SourceConfig]:
        return {
            "docs": SourceConfig(f"{self.root}/docs-*.jsonl"),
            "chats": SourceConfig(f"{self.root}/chats.jsonl", "chats"),
        }

    def config(self, holdout: float = 0.0, **changes: Any) -> DataConfig:
        held = {name: dataclasses.replace(s, holdout=holdout) for name, s in self.sources.items()}
        weights = {"docs": 0.6, "chats": 0.4}
        return DataConfig(**{"seq_len": SEQ_LEN, "sources": held, "weights": weights, **changes})

    def loader(self, config: DataConfig | None = None, batch_rows: int = 8, seed: int = 3) -> Loader:
        return Loader(
            config or self.config(), self.tokenizer, TEMPLATE, batch_rows, seed, self.root / "cache"
        )

    @functools.cached_property
    def sequences(self) -> dict[str, tuple[list[int], list[bool]]]:
        """ "file:line" -> ids and loss mask, tokenised here."""
        t = self.tokenizer
        out = {}
        for d in sources.iter_documents(self.sources["docs"].path):
            ids = [t.bos_id, *t.encode(d.text), t.eos_id]
            out[d.where] = (ids, [True] * len(ids))
        for c in sources.iter_chats(self.sources["chats"].path):
            out[c.where] = encode_chat(t, TEMPLATE, c.messages)
        return out


def write(root: Path, tokenizer: Tokenizer, corpus: list[str]) -> Data:
    """Writes the documents of `corpus` in two files below `root`, and 150 chats made of its words."""
    rng = random.Random(0)
    for part in range(2):
        lines = [{"text": text} for text in corpus[part::2]]
        (root / f"docs-{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = " ".join(corpus).split()

    def say(a: int, b: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(a, b)))

    with (root / "chats.jsonl").open("w") as f:
        for _ in range(150):
            messages = [{"role": "user", "content": say(1, 5)}, {"role": "assistant", "content": say(1, 4)}]
            f.write(json.dumps({"messages": messages}) + "\n")
    return Data(root, tokenizer)


def same(a: Batch, b: Batch) -> bool:
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))
