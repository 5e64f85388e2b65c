"""What a run of demonstrations will take, before its first call."""

from __future__ import annotations

from rich.console import Group

from msm_jax.specs.prose import Prose, units
from msm_jax.synthesis import preview
from msm_jax.synthesis.asking import tokens
from msm_jax.synthesis.chat_config import DemonstrationsConfig
from msm_jax.synthesis.preview import TOKENS_PER_WORD, Preview

# Tokens of an element of a list, of a user's message, and of a judgement.
_ELEMENT_TOKENS = {"conversation_domains": 50, "questions": 60, "identity": 70}
_FOLLOW_UP_TOKENS = 60
_JUDGEMENT_TOKENS = 120
# The share of answers that the judge passes, for the estimate.
PASS_RATE = 0.8


def of(config: DemonstrationsConfig, spec: Prose) -> Preview:
    """Returns what a run takes if the judge passes `PASS_RATE` of the conversations with as few votes as decide."""
    plan, reply = config.plan, config.reply
    part = tokens(spec.text) // len(units(spec, config.spec.words))
    talks = -(-plan.samples * 10 // round(10 * PASS_RATE))
    domains = -(-talks // plan.questions_per_domain)
    said = round(reply.words * TOKENS_PER_WORD)
    answer = said + reply.reasoning_tokens // 3
    turns = talks * plan.turns
    # A turn is shown all turns before it.
    shown = (plan.turns - 1) * (said + _FOLLOW_UP_TOKENS) // 2
    per_call = {
        "conversation_domains": min(plan.domains_per_call, domains),
        "questions": min(plan.questions_per_call, plan.questions_per_domain),
        "identity": 20,
    }
    asked = {"conversation_domains": domains, "questions": talks, "identity": config.identity.samples}
    stages = [
        preview.stage(
            config, name, -(-count // per_call[name]), (part if name != "identity" else 0) + 500,
            per_call[name] * _ELEMENT_TOKENS[name],
        )
        for name, count in asked.items() if count
    ]  # fmt: skip
    if plan.turns > 1:
        stages.append(preview.stage(config, "follow_up", turns - talks, part + shown + said, _FOLLOW_UP_TOKENS))
    stages.append(preview.stage(config, "response", turns, part + shown + 150, answer))
    votes = talks * (config.judging.votes // 2 + 1)
    judge = "judge" if config.judge else "writer"
    judged = part + 200 + plan.turns * (answer + _FOLLOW_UP_TOKENS)
    stages.append(preview.stage(config, "judge", votes, judged, _JUDGEMENT_TOKENS, judge))
    texts = plan.samples * plan.turns * (answer + _FOLLOW_UP_TOKENS)
    return Preview(tuple(stages), plan.samples, texts, preview.seconds(stages, config.run))


def table(config: DemonstrationsConfig, spec: Prose) -> Group:
    """Returns the preview of demonstrations for the terminal."""
    found = of(config, spec)
    made = (
        f"{found.documents:,} demonstrations of {config.plan.turns} turns, style {config.reply.style}, "
        f"if the judge passes {PASS_RATE:.0%}; "
        f"about {found.text_tokens:,} tokens with thinking"
    )
    return preview.shown(found, config, spec, made)
