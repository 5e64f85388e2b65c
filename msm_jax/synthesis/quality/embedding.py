"""Sentence embeddings: the forward pass of all-MiniLM-L6-v2 in JAX, from a directory with its weights and tokenizer.

The model is a BERT encoder with 6 layers of 384 channels. A text's embedding is the mean of its tokens' last hidden
states, scaled to length 1, so that a dot product is a cosine. `python -m tools.minilm` fetches the directory.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jaxtyping import Array, Float, Int
from safetensors import numpy as safetensors

from msm_jax.errors import InputError

DIMENSION = 384
MAX_TOKENS = 512
_HEADS = 12
_EPSILON = 1e-12
# Lengths to which texts are padded, and how many tokens one batch holds: so many that their activations stay in the
# cache of a core. Batches of 8192 tokens take twice the CPU time per token.
_LENGTHS = (16, 24, 32, 48, 64, 128, 256, 512)
_BATCH_TOKENS = 1024

_Weights = dict[str, Array]


class Embedder:
    """MiniLM, loaded."""

    def __init__(self, weights: _Weights, tokenizer: tokenizers.Tokenizer) -> None:
        """Keeps weights, those of the layers stacked, and a tokenizer without padding and truncation."""
        self._weights = weights
        self._tokenizer = tokenizer

    @classmethod
    @functools.lru_cache(maxsize=1)
    def load(cls, directory: str | Path) -> Embedder:
        """Loads `model.safetensors` and `tokenizer.json`; a directory that was loaded last is not loaded again.

        Raises:
            InputError: a file is missing, or is not that of MiniLM.
        """
        files = [Path(directory) / name for name in ("model.safetensors", "tokenizer.json")]
        if not all(file.is_file() for file in files):
            raise InputError(
                f"{directory}: the embedding model is not there; run python -m tools.minilm, or set embeddings = None "
                "to do without semantic gates"
            )
        tokenizer = tokenizers.Tokenizer.from_file(str(files[1]))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        loaded = safetensors.load_file(files[0])
        shape = loaded["embeddings.word_embeddings.weight"].shape
        if shape != (tokenizer.get_vocab_size(), DIMENSION):
            raise InputError(f"{files[0]}: word embeddings have the shape {shape}; run python -m tools.minilm again")
        return cls(_stacked(loaded), tokenizer)

    def embed(self, texts: Sequence[str], max_tokens: int = 256) -> np.ndarray:
        """Returns the embeddings of texts, float32 [texts, 384], each of length 1.

        Args:
            texts: an empty text has the embedding of "".
            max_tokens: how many tokens of a text are read, the two marks at its ends among them; at most 512.
        """
        # A word has at least one token, so no more than `max_tokens` words are needed; the tokenizer reads no others.
        encoded = self._tokenizer.encode_batch([" ".join(text.split()[:max_tokens]) for text in texts])
        ids = [_cut(each.ids, min(max_tokens, MAX_TOKENS)) for each in encoded]
        out = np.zeros((len(texts), DIMENSION), np.float32)
        for length, shorter in zip(_LENGTHS, (0, *_LENGTHS), strict=False):
            members = [i for i, each in enumerate(ids) if shorter < len(each) <= length]
            rows = _BATCH_TOKENS // length
            for begin in range(0, len(members), rows):
                chosen = members[begin : begin + rows]
                tokens_BT = np.zeros((rows, length), np.int32)
                lengths_B = np.ones(rows, np.int32)
                for row, i in enumerate(chosen):
                    tokens_BT[row, : len(ids[i])] = ids[i]
                    lengths_B[row] = len(ids[i])
                out[chosen] = np.asarray(_embed(self._weights, tokens_BT, lengths_B))[: len(chosen)]
        return out


def _cut(ids: list[int], most: int) -> list[int]:
    """Returns at most `most` ids: the first ones and the mark at the end."""
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def _stacked(loaded: dict[str, np.ndarray]) -> _Weights:
    """Returns the weights by name, with those of all layers in one array each under "layers.NAME"."""
    weights: dict[str, np.ndarray] = {}
    layers = len({name.split(".")[2] for name in loaded if name.startswith("encoder.layer.")})
    for name, value in loaded.items():
        if name.startswith("encoder.layer.0."):
            inner = name.removeprefix("encoder.layer.0.")
            weights[f"layers.{inner}"] = np.stack([loaded[f"encoder.layer.{i}.{inner}"] for i in range(layers)])
        elif name.startswith("embeddings.") and value.dtype == np.float32:
            weights[name] = value
    return jax.device_put(weights)


@jax.jit
def _embed(weights: _Weights, tokens_BT: Int[Array, "b t"], lengths_B: Int[Array, " b"]) -> Float[Array, "b d"]:
    present_BT = jnp.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    hidden = (
        weights["embeddings.word_embeddings.weight"][tokens_BT]
        + weights["embeddings.position_embeddings.weight"][: tokens_BT.shape[1]]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )

    def layer(hidden: Array, weights: _Weights) -> tuple[Array, None]:
        mixed = _linear(weights, "attention.output.dense", _attention(weights, hidden, present_BT))
        hidden = _norm(weights, "attention.output.LayerNorm", hidden + mixed)
        inner = jax.nn.gelu(_linear(weights, "intermediate.dense", hidden), approximate=False)
        return _norm(weights, "output.LayerNorm", hidden + _linear(weights, "output.dense", inner)), None

    layers = {name.removeprefix("layers."): value for name, value in weights.items() if name.startswith("layers.")}
    hidden, _ = jax.lax.scan(layer, _norm(weights, "embeddings.LayerNorm", hidden), layers)
    sums = jnp.where(present_BT[..., None], hidden, 0).sum(1)
    return sums / jnp.linalg.norm(sums, axis=-1, keepdims=True)


def _attention(weights: _Weights, hidden: Array, present_BT: Array) -> Array:
    batch, length, width = hidden.shape

    def heads(name: str) -> Array:
        return _linear(weights, f"attention.self.{name}", hidden).reshape(batch, length, _HEADS, width // _HEADS)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = jnp.einsum("bthk,bshk->bhts", query, key) / (width // _HEADS) ** 0.5
    shares = jax.nn.softmax(jnp.where(present_BT[:, None, None, :], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", shares, value).reshape(batch, length, width)


def _linear(weights: _Weights, at: str, inputs: Array) -> Array:
    # Factors in bfloat16 and sums in float32 are three times as fast on a CPU with matrix units.
    factors = inputs.astype(jnp.bfloat16), weights[f"{at}.weight"].astype(jnp.bfloat16).T
    return jnp.dot(*factors, preferred_element_type=jnp.float32) + weights[f"{at}.bias"]


def _norm(weights: _Weights, at: str, inputs: Array) -> Array:
    centred = inputs - inputs.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + _EPSILON)
    return scaled * weights[f"{at}.weight"] + weights[f"{at}.bias"]
