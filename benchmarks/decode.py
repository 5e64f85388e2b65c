"""Decoding speed, compared with transformers on torch: the same weights, prompts and number of tokens.

    python benchmarks/decode.py --ref_python=.venv-ref/bin/python

The two sides take turns, each in its own process. The result is the ratio of their times with its spread over the
turns, and the ratio for bare matrix products of the same shapes.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record, reference
from benchmarks.served import PAGE, Served
from msm_jax import cli
from msm_jax.models import presets, transformer

_REF_PYTHON = flags.DEFINE_string("ref_python", None, "Python with torch and transformers; or MSM_JAX_REF_PYTHON.")
_PRESET = flags.DEFINE_string("preset", "mini-15m", "The model's shape; its weights are random.")
_BATCH = flags.DEFINE_integer("batch", 32, "Prompts decoded in one batch.")
_PROMPT = flags.DEFINE_integer("prompt", 128, "Tokens of each prompt.")
_NEW = flags.DEFINE_integer("new", 128, "Tokens decoded greedily for each prompt.")
_WORK = flags.DEFINE_string("work", None, "Run as the worker of this package, on the files of this directory.")


def main() -> None:
    """Runs both sides and publishes the comparison."""
    if _WORK.value is not None:
        work(Path(_WORK.value))
        return
    python = reference.find_python(_REF_PYTHON.value)
    with tempfile.TemporaryDirectory() as directory:
        write_inputs(Path(directory))
        ours = reference.Worker([sys.executable, __file__, f"--work={directory}"], record.THREADS.value)
        first_of_ours = ours.first()
        script = Path(__file__).parent / "reference_decode.py"
        theirs = reference.Worker([python, str(script), directory], record.THREADS.value)
        first_of_theirs = theirs.first()
        turns = [(ours.ask(do="run"), theirs.ask(do="run")) for _ in range(record.REPEATS.value)]
        bare = [(ours.ask(do="products"), theirs.ask(do="products")) for _ in range(3)]
        ended = ours.ask(do="end"), theirs.ask(do="end")
        peak = ours.peak_mib(), theirs.peak_mib()
        ours.close()
        theirs.close()
        replies = [np.load(Path(directory) / f"{side}.npy") for side in ("ours", "theirs")]
    same = float((replies[0] == replies[1]).mean())
    record.publish(result(turns, bare, ended, (first_of_ours, first_of_theirs), peak, same))


def write_inputs(directory: Path) -> None:
    """Writes weights, prompts and settings for both sides."""
    config = presets.preset(_PRESET.value, compute_dtype="float32")
    params = jax.jit(transformer.init_params, static_argnums=0)(config, jax.random.key(0))
    reference.write(directory / "weights.npz", reference.weights(params, config))
    rng = np.random.default_rng(0)
    prompts_BT = rng.integers(4, config.vocab_size, (_BATCH.value, _PROMPT.value), dtype=np.int32)
    np.save(directory / "prompts.npy", prompts_BT)
    settings = {
        "model": reference.settings(config),
        "preset": _PRESET.value,
        "new": _NEW.value,
        "threads": record.THREADS.value,
        "products": products(config),
    }
    (directory / "settings.json").write_text(json.dumps(settings))


def products(config: Any) -> list[list[int]]:
    """[M, K, N, times] of the matrix products of one run: the prompts at once, then a step per further token."""
    c = config
    layer = [
        (c.hidden_size, c.num_heads * c.head_dim, 1),
        (c.hidden_size, c.num_kv_heads * c.head_dim, 2),
        (c.num_heads * c.head_dim, c.hidden_size, 1),
        (c.hidden_size, c.intermediate_size, 2),
        (c.intermediate_size, c.hidden_size, 1),
    ]
    steps = _NEW.value - 1
    found = [[_BATCH.value, c.hidden_size, c.vocab_size, steps + 1]]
    for k, n, count in layer:
        found.append([_BATCH.value, k, n, count * c.num_layers * steps])
        found.append([_BATCH.value * _PROMPT.value, k, n, count * c.num_layers])
    return found


def work(directory: Path) -> None:
    """Runs this package's side: answers the requests on standard input."""
    settings = json.loads((directory / "settings.json").read_text())
    config = presets.preset(settings["preset"], compute_dtype="float32")
    cli.prepare_backend(devices=1, threads=settings["threads"])
    # The same seed on the same machine gives the weights that were written for the other side.
    params = jax.jit(transformer.init_params, static_argnums=0)(config, jax.random.key(0))
    unstacked = jax.jit(transformer.unstack, static_argnums=1)(params, config)
    prompts_BT = np.load(directory / "prompts.npy")
    (rows, length), new = prompts_BT.shape, settings["new"]
    served = Served(config, unstacked, rows, rows * (-(-(length + new) // PAGE)))

    def generate() -> np.ndarray:
        # The prompts of one repeat are not found in the cache of the one before.
        served.forget()
        return np.array(served.answer([(prompt.tolist(), new) for prompt in prompts_BT]), np.int32)

    for line in sys.stdin:
        answer: dict[str, Any] = {}
        match json.loads(line)["do"]:
            case "run":
                start = time.perf_counter()
                replies_BN = generate()
                answer = {"seconds": time.perf_counter() - start}
            case "products":
                answer = {"seconds": sum(reference.product(*each) for each in settings["products"])}
            case "end":
                np.save(directory / "ours.npy", replies_BN)
                answer = {"how": f"jax {jax.__version__}"}
        print(json.dumps(answer), flush=True)


def result(
    turns: list[tuple[dict[str, Any], dict[str, Any]]],
    bare: list[tuple[dict[str, Any], dict[str, Any]]],
    ended: tuple[dict[str, Any], dict[str, Any]],
    first: tuple[float, float],
    peak: tuple[float, float],
    same: float,
) -> record.Result:
    """Returns the comparison as a table."""
    tokens = _BATCH.value * _NEW.value
    seconds, products = ([[turn[side]["seconds"] for turn in each] for side in (0, 1)] for each in (turns, bare))
    medians = [statistics.median(each) for each in seconds]
    return record.Result(
        title=f"Decoding, {_PRESET.value}",
        about=f"Batch {_BATCH.value}, prompts of {_PROMPT.value} tokens, {_NEW.value} new tokens, greedy, float32, "
        f"{record.THREADS.value} threads; medians.",
        columns=("", ended[0]["how"], ended[1]["how"], "theirs / ours"),
        rows=(
            ("seconds", *(f"{x:.2f}" for x in medians), record.quotients(seconds[1], seconds[0])),
            ("tokens/s", *(f"{tokens / x:,.0f}" for x in medians), ""),
            ("bare products, s", *(f"{statistics.median(x):.2f}" for x in products), record.quotients(*products[::-1])),
            ("start to first reply, s", *(f"{x:.1f}" for x in first), ""),
            ("peak memory, MiB", *(f"{x:,.0f}" for x in peak), ""),
        ),
        notes=f"Equal tokens: {same:.1%}. Ways of running torch that were tried, in s: "
        + ", ".join(f"{name} {took}" for name, took in ended[1]["tried"].items()) + ".",
    )


if __name__ == "__main__":
    cli.run(main)
