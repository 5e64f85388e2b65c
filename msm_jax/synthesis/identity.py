"""Exchanges in which the assistant says who it is, who made it, and what it can do."""

from __future__ import annotations

from typing import Any

from msm_jax.specs.prose import Prose
from msm_jax.synthesis import parsing, prompts
from msm_jax.synthesis.asking import Asker, Dropped, Question
from msm_jax.synthesis.chat_config import DemonstrationsConfig

_PER_CALL = 20
_MOST_EMPTY_CALLS = 3
_MOST_EXISTING = 100


async def rows(
    spec: Prose, config: DemonstrationsConfig, asker: Asker
) -> tuple[list[dict[str, Any]], list[Dropped]]:
    """Returns exchanges as rows, {"messages", "meta"}, and the calls that gave nothing.

    There are fewer than the settings say where three calls in a row give none that is new.
    """
    found: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    known: list[str] = []
    call = empty = 0
    template = prompts.load("identity")
    while len(found) < config.identity.samples and empty < _MOST_EMPTY_CALLS:
        item, call = f"i{call}", call + 1
        prompt = template.fill(
            assistant=config.spec.assistant, provider=config.spec.provider,
            abilities="\n".join(config.identity.abilities),
            existing="\n".join(f"- {text}" for text in known[-_MOST_EXISTING:]),
            count=min(_PER_CALL, config.identity.samples - len(found)),
        )  # fmt: skip
        empty += 1
        try:
            question = Question("identity", item, prompt, config.plan.list_tokens)
            answer = await asker.ask(question, lambda reply: parsing.objects(reply, ("question", "answer"))[0])
        except Dropped as error:
            dropped.append(error)
            continue
        for number, each in enumerate(answer.value):
            text = " ".join(each["question"].split())
            if text in known or len(found) >= config.identity.samples:
                continue
            empty = 0
            known.append(text)
            messages = [{"role": "user", "content": text}, {"role": "assistant", "content": each["answer"]}]
            meta = {
                "id": f"{item}.n{number}", "spec": spec.title, "spec_sha256": spec.sha256, "style": "identity",
                "writer": config.writer.model, "template_sha256": template.sha256,
                "prompt_sha256": answer.key.prompt_sha256, "attempt": answer.key.attempt, "seed": config.run.seed,
            }  # fmt: skip
            found.append({"messages": messages, "meta": meta})
    return found, dropped
