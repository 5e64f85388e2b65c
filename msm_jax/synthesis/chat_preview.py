"""What a run of demonstrations or pairs will take, before its first call."""

from __future__ import annotations

from rich.console import Group

from msm_jax.specs.prose import Prose, units
from msm_jax.synthesis import preview
from msm_jax.synthesis.asking import tokens
from msm_jax.synthesis.chat_config import DemonstrationsConfig, PairsConfig, TalksConfig
from msm_jax.synthesis.preview import TOKENS_PER_WORD, Preview

# Tokens of an element of a list, of a user's message, and of a judgement.
_ELEMENT_TOKENS = {"conversation_domains": 50, "questions": 60, "identity": 70}
_FOLLOW_UP_TOKENS = 60
_JUDGEMENT_TOKENS = 120
# The share of answers that the judge passes, for the estimate; and of those, the share that it finds better than their
# rivals in both orders.
PASS_RATE = 0.8
BETTER_RATE = 0.8


def of(config: TalksConfig, spec: Prose) -> Preview:
    """Returns what a run takes if the judge passes `PASS_RATE` of the conversations with as few votes as decide, and
    `BETTER_RATE` of their comparisons with a rival."""
    plan, reply = config.plan, config.reply
    pairs = isinstance(config, PairsConfig)
    part = tokens(spec.text) // len(units(spec, config.spec.words))
    compared = -(-plan.samples * 10 // round(10 * BETTER_RATE)) if pairs else plan.samples
    talks = -(-compared * 10 // round(10 * PASS_RATE))
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
    said_of_itself = config.identity.samples if isinstance(config, DemonstrationsConfig) else 0
    asked = {"conversation_domains": domains, "questions": talks, "identity": said_of_itself}
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
    if pairs:
        before = part + shown + 200
        stages.append(preview.stage(config, "rival", compared, before + said, answer))
        stages.append(preview.stage(config, "compare", 2 * compared, before + 2 * answer, _JUDGEMENT_TOKENS, judge))
    texts = plan.samples * (plan.turns * (answer + _FOLLOW_UP_TOKENS) + (answer if pairs else 0))
    return Preview(tuple(stages), plan.samples, texts, preview.seconds(stages, config.run))


def table(config: TalksConfig, spec: Prose) -> Group:
    """Returns the preview of demonstrations or pairs for the terminal."""
    found = of(config, spec)
    pairs = isinstance(config, PairsConfig)
    better = f", and finds {BETTER_RATE:.0%} of these better than their rivals" if pairs else ""
    made = (
        f"{found.documents:,} {'pairs' if pairs else 'demonstrations'} of {config.plan.turns} turns, style "
        f"{config.reply.style}, if the judge passes {PASS_RATE:.0%}{better}; "
        f"about {found.text_tokens:,} tokens with thinking"
    )
    return preview.shown(found, config, spec, made)
