"""Answers a prompt of any stage: the one function that stands for a language model."""

from __future__ import annotations

from msm_jax.synthesis.scripted import chats, documents, planning, prompts
from msm_jax.synthesis.scripted.draw import Draw


def reply(text: str, *seeds: object) -> str:
    """Returns the reply to a prompt's text, a function of it and of the seeds.

    A prompt whose stage is unknown is answered in a sentence, as a person would who cannot tell what is wanted.
    """
    prompt = prompts.read(text)
    draw = Draw(text, *seeds)
    if prompt.stage in planning.STAGES:
        return planning.answer(planning.elements(prompt, draw))
    if prompt.stage == "critique":
        return documents.critique(prompt, draw)
    if prompt.stage == "augment":
        return documents.augment(prompt, draw)
    if prompt.stage == "follow_up":
        return chats.follow_up(prompt, draw)
    if prompt.stage == "response":
        return chats.response(prompt, draw)
    if prompt.stage == "judge":
        return chats.judge(prompt, draw)
    if prompt.stage == "rival":
        return chats.rival(prompt, draw)
    if prompt.stage == "compare":
        return chats.compare(prompt, draw)
    if prompt.stage.startswith(("document", "rewrite")):
        return documents.write(prompt, draw)
    return draw.fill("[I cannot tell what is asked for|It is not clear to me which task this is].", {})
