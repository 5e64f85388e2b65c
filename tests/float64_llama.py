"""A Llama in numpy and float64, to measure the rounding of others by; rotary angles in float64 too."""

import numpy as np


def logits(params, config, tokens):
    """[T, V] of one sequence, from parameters as `transformer.init_params` makes them: no biases, no QK-norm."""
    c = config
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params["layers"].items()}
    embedding = np.asarray(params["embedding"], np.float64)
    half = c.head_dim // 2
    angles = np.arange(len(tokens))[:, None] * c.rope_theta ** (-np.arange(half) / half)
    sin, cos = np.sin(angles)[:, None], np.cos(angles)[:, None]
    causal = np.tril(np.ones((len(tokens), len(tokens)), bool))

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.rms_norm_eps) * np.asarray(scale, np.float64)

    def rotate(x):
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    x = embedding[tokens]
    for i in range(c.num_layers):
        h = norm(x, p["attention_norm"][i])
        q, k, v = (np.einsum("td,dnk->tnk", h, p[name][i]) for name in ("query", "key", "value"))
        q, (k, v) = rotate(q), (np.repeat(each, c.num_heads // c.num_kv_heads, 1) for each in (rotate(k), v))
        scores = np.where(causal, np.einsum("tnk,snk->nts", q, k) / np.sqrt(c.head_dim), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("nts,snk,nkd->td", weights, v, p["attention_out"][i], optimize=True)
        h = norm(x, p["mlp_norm"][i])
        gate = h @ p["gate"][i]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ p["up"][i])) @ p["down"][i]
    output = embedding.T if c.tie_embeddings else np.asarray(params["output"], np.float64)
    return norm(x, params["final_norm"]) @ output
