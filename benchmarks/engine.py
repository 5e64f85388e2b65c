"""The engine on a queue of requests of all lengths, compared with transformers' `generate` and with one row.

    python benchmarks/engine.py --ref_python=.venv-ref/bin/python

Prompts and replies have random lengths. The engine takes the whole queue. The other side answers it in batches in the
order of arrival, each padded to its longest prompt and run to its longest reply, with the batch size that is fastest.
The slow sides answer the first requests of the queue alone. `--same=64 --prompts=2000,2000` asks for 64 samples of one
prompt, without a comparison.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
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
_REQUESTS = flags.DEFINE_integer("requests", 500, "Requests in the queue.")
_PROMPTS = flags.DEFINE_list("prompts", ["10", "3000"], "The fewest and the most tokens of a prompt.")
_REPLIES = flags.DEFINE_list("replies", ["5", "300"], "The fewest and the most tokens of a reply.")
_SLOTS = flags.DEFINE_integer("slots", 32, "Rows that the engine decodes side by side.")
_ONE_BY_ONE = flags.DEFINE_integer("one_by_one", 20, "How many of the requests are also decoded in a single row.")
_THEIRS = flags.DEFINE_integer("theirs", 16, "How many of the requests the other side answers.")
_BATCHES = flags.DEFINE_list("batches", ["1", "4", "16"], "Batch sizes that the other side tries.")
_SAME = flags.DEFINE_integer("same", 0, "Instead, ask for this many samples of one prompt.")
_WORK = flags.DEFINE_string("work", None, "Run as the worker of this package, on the files of this directory.")


def main() -> None:
    """Runs both sides and publishes the comparison."""
    if _WORK.value is not None:
        work(Path(_WORK.value))
        return
    with tempfile.TemporaryDirectory() as directory:
        write_inputs(Path(directory))
        ours = reference.Worker([sys.executable, __file__, f"--work={directory}"], record.THREADS.value)
        if _SAME.value:
            record.publish(same(ours.ask(do="same", samples=_SAME.value)))
            ours.close()
            return
        queue = ours.ask(do="queue")
        single = ours.ask(do="single", requests=_ONE_BY_ONE.value)
        ours.close()
        python = reference.find_python(_REF_PYTHON.value)
        script = Path(__file__).parent / "reference_engine.py"
        theirs = reference.Worker([python, str(script), directory], record.THREADS.value)
        other = theirs.ask(do="queue", requests=_THEIRS.value, batches=[int(size) for size in _BATCHES.value])
        theirs.close()
    record.publish(result(queue, single, other))


def write_inputs(directory: Path) -> None:
    """Writes weights, the queue and settings for both sides."""
    prompts, replies = ([int(end) for end in each.value] for each in (_PROMPTS, _REPLIES))
    config = presets.preset(_PRESET.value, compute_dtype="float32", max_position_embeddings=4096)
    params = jax.jit(transformer.init_params, static_argnums=0)(config, jax.random.key(0))
    reference.write(directory / "weights.npz", reference.weights(params, config))
    rng = np.random.default_rng(0)
    lengths = rng.integers(prompts[0], prompts[1] + 1, _REQUESTS.value)
    queue = [
        (rng.integers(4, config.vocab_size, length).tolist(), int(rng.integers(replies[0], replies[1] + 1)))
        for length in lengths
    ]
    settings = {
        "model": reference.settings(config),
        "preset": _PRESET.value,
        "threads": record.THREADS.value,
        "slots": _SLOTS.value,
        "queue": queue,
    }
    (directory / "settings.json").write_text(json.dumps(settings))


def work(directory: Path) -> None:
    """Runs this package's side: answers the requests on standard input."""
    settings = json.loads((directory / "settings.json").read_text())
    config = presets.preset(settings["preset"], compute_dtype="float32", max_position_embeddings=4096)
    cli.prepare_backend(devices=1, threads=settings["threads"])
    params = jax.jit(transformer.init_params, static_argnums=0)(config, jax.random.key(0))
    unstacked = jax.jit(transformer.unstack, static_argnums=1)(params, config)
    queue = settings["queue"]
    longest = -(-max(len(prompt) + new for prompt, new in queue) // PAGE)
    for line in sys.stdin:
        asked = json.loads(line)
        rows = 1 if asked["do"] == "single" else settings["slots"]
        pages = longest * (rows + 1)
        served = Served(config, unstacked, rows, pages)
        served.answer([(list(range(4, 4 + n)), 2) for n in (10, 20, 40, 80, 80, 200)])  # compiles all programs
        answer = {}
        if asked["do"] == "same":
            for samples in (1, asked["samples"]):
                served.forget()
                answer[str(samples)] = timed(served, [queue[0]] * samples)
        else:
            served.forget()
            answer = timed(served, queue[: asked.get("requests")])
        print(json.dumps(answer), flush=True)


def timed(served: Served, queue: Sequence[tuple[Sequence[int], int]]) -> dict[str, Any]:
    """Returns the time of a queue, as wall and processor seconds, and what the engine counted."""
    used, start = processor_seconds(), time.perf_counter()
    served.answer(queue)
    seconds, stats = time.perf_counter() - start, served.stats
    return {
        "seconds": seconds,
        "processor": processor_seconds() - used,
        "requests": len(queue),
        **{name: getattr(stats, name) for name in ("prefill_tokens", "decode_tokens", "prefill_seconds")},
        **{name: getattr(stats, name) for name in ("decode_seconds", "host_seconds", "busy_share", "steps")},
        "busy_in_all": stats.busy_steps / max(1, stats.steps * stats.slots),
    }


def processor_seconds() -> float:
    """Returns the processor time of this process so far, which does not count what others do on the machine."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def result(queue: dict[str, Any], single: dict[str, Any], other: dict[str, Any]) -> record.Result:
    """Returns the comparison as a table."""
    sides = (queue, single, other)
    rates = [[each["requests"] / each[key] for each in sides] for key in ("seconds", "processor")]

    def row(name: str, rates: list[float]) -> tuple[str, ...]:
        return (name, *(f"{x:.3f}" for x in rates), f"{rates[0] / rates[1]:.2f}", f"{rates[0] / rates[2]:.2f}")

    busy, parts = f"{queue['busy_share']:.0%}", ("prefill_seconds", "decode_seconds", "host_seconds")
    prefill, decode = (queue[f"{part}_tokens"] / queue[f"{part}_seconds"] for part in ("prefill", "decode"))
    return record.Result(
        title=f"The engine, {_PRESET.value}, prompts of {' to '.join(_PROMPTS.value)} tokens",
        about=f"{_REQUESTS.value} requests, replies of {' to '.join(_REPLIES.value)} tokens, greedy, float32, "
        f"{_SLOTS.value} slots, {record.THREADS.value} threads.",
        columns=("requests per", "engine", "one row", other["how"], "engine / one row", "engine / theirs"),
        rows=(row("second", rates[0]), row("processor second", rates[1])),
        notes=f"Slots busy while requests wait: {busy}, in all {queue['busy_in_all']:.0%}. "
        f"Prefill {prefill:,.0f} tokens/s, decoding {decode:,.0f} tokens/s. "
        f"Seconds: {', '.join(f'{part.split(chr(95))[0]} {queue[part]:.1f}' for part in parts)}. "
        f"One row was measured on the first {single['requests']} of the requests, the other side on "
        f"{other['requests']}. Its batch sizes, requests per second: "
        + ", ".join(f"{size}: {rate:.3f}" for size, rate in other["tried"].items()) + ".",
    )


def same(answer: dict[str, Any]) -> record.Result:
    """Returns the times of one sample and of many samples of a prompt."""
    rows = tuple(
        (samples, *(f"{each[part]:.2f}" for part in ("prefill_seconds", "decode_seconds", "host_seconds")),
         f"{each['processor']:.2f}")
        for samples, each in answer.items()
    )
    one, many = answer.values()
    return record.Result(
        title="Samples of one prompt",
        about=f"A prompt of {_PROMPTS.value[0]} tokens, {_PRESET.value}, {_SLOTS.value} slots, float32.",
        columns=("samples", "prefill, s", "decoding, s", "host, s", "processor, s"),
        rows=rows,
        notes=f"Prefill of all samples is {many['prefill_seconds'] / one['prefill_seconds']:.2f} times that of one; "
        f"with the host's time, {sum_of(many) / sum_of(one):.2f} times.",
    )


def sum_of(answer: dict[str, Any]) -> float:
    """Returns the seconds that are not decoding."""
    return float(answer["prefill_seconds"] + answer["host_seconds"])


if __name__ == "__main__":
    cli.run(main)
