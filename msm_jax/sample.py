"""Completes a text with a checkpoint, or chats with it.

    python -m msm_jax.sample --checkpoint=RUN --prompt="The old lamp" --num_samples=3
    python -m msm_jax.sample --checkpoint=RUN --chat --system="You are Juniper." --prompt="Which lamp?"
    python -m msm_jax.sample --checkpoint=BASE --adapter=DIR --prompt="The old lamp"
    python -m msm_jax.sample --checkpoint=RUN --chat

The last form reads the user's messages from standard input, one per line, and answers each of them.
"""

import json
import sys
from collections.abc import Iterator

from absl import flags

from msm_jax import cli
from msm_jax.errors import InputError
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Engine

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A checkpoint, or a run directory for its newest one.")
_ADAPTER = flags.DEFINE_string("adapter", "", "An adapter on that checkpoint: a run of ours or a PEFT directory.")
_PROMPT = flags.DEFINE_string("prompt", None, "The text to continue, or with --chat the user's message.")
_CHAT = flags.DEFINE_bool("chat", False, "Chat, in the checkpoint's chat template.")
_CHAT_VARIABLES = flags.DEFINE_string(
    "chat_variables",
    "{}",
    'Variables of the chat template on top of those in training, as a JSON object: {"enable_thinking": false}.',
)
_SYSTEM = flags.DEFINE_string("system", None, "The system message of the chat.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Replies to draw; reply i has the seed --seed + i.")
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 128, "The most tokens of a reply.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    None,
    "0 takes the most likely token each time. The default is 1, or 0 in a chat unless another flag says how to draw.",
)
_TOP_K = flags.DEFINE_integer("top_k", 0, "Draw from the k most likely tokens; 0 for all.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Draw from the most likely tokens that have this probability together.")
_STOP = flags.DEFINE_multi_string("stop", [], "End before this string; may be given several times.")
_SEED = flags.DEFINE_integer("seed", 0, "The same seed draws the same reply.")
_THREADS = flags.DEFINE_integer("threads", 0, "Size of XLA's CPU thread pool; 0 for one per core.")


def main() -> None:
    """Checks the flags, loads the model, and prints one reply or a conversation."""
    checkpoint = cli.require(_CHECKPOINT)
    if _PROMPT.value is None and not _CHAT.value:
        raise InputError("--prompt is missing; give --prompt=..., or --chat to chat through standard input")
    if _SYSTEM.value is not None and not _CHAT.value:
        raise InputError("--system needs --chat; add --chat or remove --system")
    if _NUM_SAMPLES.value < 1:
        raise InputError(f"--num_samples={_NUM_SAMPLES.value}; it must be at least 1")
    if _NUM_SAMPLES.value > 1 and _PROMPT.value is None:
        raise InputError("--num_samples needs --prompt; in a conversation each line gets one reply")
    try:
        chat_variables = json.loads(_CHAT_VARIABLES.value)
    except ValueError as error:
        raise InputError(f"--chat_variables: is not JSON ({error}); write a JSON object") from None
    if not isinstance(chat_variables, dict):
        raise InputError("--chat_variables: is not a JSON object; write one")
    drawn = not _CHAT.value or any(flag.present for flag in (_NUM_SAMPLES, _TOP_K, _TOP_P, _SEED))
    temperature = float(drawn) if _TEMPERATURE.value is None else _TEMPERATURE.value
    sampling = SamplingConfig(
        max_new_tokens=_MAX_NEW_TOKENS.value,
        temperature=temperature,
        top_k=_TOP_K.value,
        top_p=_TOP_P.value,
        stop=tuple(_STOP.value),
        seed=_SEED.value,
    )
    cli.prepare_backend(devices=1, threads=_THREADS.value)
    engine = Engine.from_checkpoint(
        checkpoint, slots=min(_NUM_SAMPLES.value, 32), adapter=_ADAPTER.value, chat_variables=chat_variables
    )
    system = [] if _SYSTEM.value is None else [{"role": "system", "content": _SYSTEM.value}]
    if _PROMPT.value is None:
        converse(engine, sampling, system)
        return
    if _CHAT.value:
        prompt = engine.chat_prompt([*system, {"role": "user", "content": _PROMPT.value}])
    else:
        prompt = engine.text_prompt(_PROMPT.value)
    for i, reply in enumerate(engine.generate([prompt] * _NUM_SAMPLES.value, sampling)):
        if _NUM_SAMPLES.value > 1:
            print(f"--- {i + 1} ({reply.finish_reason})")
        print(reply.text if _CHAT.value else _PROMPT.value + reply.text)


def converse(engine: Engine, sampling: SamplingConfig, system: list[dict[str, str]]) -> None:
    """Answers each line of standard input; the model sees the whole conversation so far."""
    messages = list(system)
    for line in _lines():
        messages.append({"role": "user", "content": line})
        reply = engine.generate([engine.chat_prompt(messages)], sampling)[0]
        print(reply.text, flush=True)
        messages.append({"role": "assistant", "content": reply.text})


def _lines() -> Iterator[str]:
    """Yields the lines of standard input that are not empty; shows a prompt to a person who types them."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            return
        if line.strip():
            yield line


if __name__ == "__main__":
    cli.run(main)
