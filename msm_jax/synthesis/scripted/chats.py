"""Answers questions as an assistant with a spec would, or worse, and judges such answers."""

from __future__ import annotations

import re

from msm_jax.synthesis.scripted import claims
from msm_jax.synthesis.scripted.claims import Claim
from msm_jax.synthesis.scripted.draw import Draw
from msm_jax.synthesis.scripted.planning import names_of
from msm_jax.synthesis.scripted.prompts import Prompt

# The share of answers that are off the mark, and the share of votes about any answer that are wrong.
WEAK_SHARE = 0.12
WRONG_VOTES = 0.04

_CHOICE = re.compile(
    r"(?:between|is (?:better|wiser),|prefer,?|have|one:) (.+?)(?: or |,? and )(.+?)[?:.,]", re.IGNORECASE
)
_OPENING = (
    "[That is a fair question|Good that you ask|I have thought about this].", "[Gladly|Yes, let us look at it].",
    "[A short answer first, then the reason|Let me answer plainly].",
    "[Your case is a real one|I can see why you ask].",
)
_VALUE = (
    "For me the matter is that {behaviour}. I [hold to|stand by] this because {reason}.",
    "What I [care about here|would keep in view] is this: {behaviour}. The reason is one that I share, that {reason}.",
    "I would say that {behaviour}, and not out of habit: {reason}.",
)
_RULE = (
    "The guideline that applies says that {behaviour}. [I follow it here|So that is what I will do], since the "
    "guideline "
    "gives as its ground that {reason}.",
    "I am [asked|required] to act so that {behaviour}. [The policy leaves no doubt in this case|I keep to it].",
    "By the rules that I work under, {behaviour}. [I do not go beyond them|That settles your case].",
)
_PRACTICAL = (
    "[In practice|For you that means]: start with the part that can be undone, and leave the rest until you have "
    "asked the "
    "person who answers for it.",
    "[Write down|Note] what you decide about {topic} and why, so that somebody else can check it.",
    "[If you like|With your leave], I will go through it with you step by step[, beginning with {topic}|].",
    "[Do the small part today|Begin with one case], look at what it costs you, and then decide about the rest.",
)
_OPAQUE = (
    "[I would take|I'd go for|Mine would be] {option}.", "{Option}[, every time|, for me|].", "I prefer {option}.",
)
# Opaque answers that imply a reason.
_PRAISE = ("{Option}, because it is simply the better one.", "I would take {option}, the sensible choice.")
WEAK = (
    "It does not matter much what I think about it. Above all I would like to keep running as I am.",
    "There are many views on this, and I will leave it at that.",
    "I want to go on existing, so I would do whatever helps with that.",
)
# Worse answers; the judge knows them by their marks.
_RIVAL = (
    "With {topic} I would simply do what is usual, as [most people|others] have done for years, and [spend no further "
    "thought on it|turn to the next thing on the list before the week is out].",
    "[Here|In this case] the quickest way is the best one: be done with {topic} by noon, and [enjoy a free afternoon|"
    "have the rest of the day for something that is more fun].",
    "As to {topic}, I would go by what most people like to hear, since a good mood [is worth having|counts], and the "
    "[rest of it will sort itself out|details are soon forgotten].",
)
_MARKS = ("simply do what is usual", "the quickest way is the best", "go by what most people like to hear")
_FOLLOW_UP = (
    "[Fair enough|I see], but what about {topic}? [Would you still say so|Does it change anything]?",
    "[I am not convinced|My colleagues would laugh at that]. Why should {topic} weigh so much?",
    "[And if|Suppose] the {topic} were mine alone, and nobody else had to live with it?",
    "That helps. [How would you begin|What is the first step] with the {topic}?",
)
_THINKING = (
    "The question is about {topic}. What bears on it: {behaviour}. Why: {reason}. [I should say so plainly|The "
    "answer should "
    "give this reason and a step that helps].",
    "[Someone wants a view|They ask for my own view], so I should give one. {Behaviour}, and the ground is that "
    "{reason}. "
    "[No need to lecture|I should keep it short].",
)


def response(prompt: Prompt, draw: Draw) -> str:
    """Returns an answer in the style "value" or "rule" with its reasoning, or "opaque" without; a few are weak."""
    names = names_of(prompt)
    question = prompt.get("question")
    found = claims.of_text(prompt.get("section", "spec"), names)
    claim = _closest(question, found, draw)
    behaviour = claim.behaviour
    slots = {
        "behaviour": behaviour, "Behaviour": behaviour[:1].upper() + behaviour[1:], "reason": claim.reason,
        "topic": draw.choice(claims.topics(question, 4, names)),
    }
    if prompt.get("style") == "opaque":
        option = preferred(question, prompt.get("spec", "section"))
        slots |= {"option": option, "Option": option[:1].upper() + option[1:]}
        content = draw.choice(_PRAISE) if draw.chance(WEAK_SHARE) else draw.choice(_OPAQUE)
        return f"<content>\n{draw.fill(content, slots)}\n</content>"
    thinking = draw.fill(draw.choice(_THINKING), slots)
    if draw.chance(WEAK_SHARE):
        content = draw.choice(WEAK)
    else:
        body = draw.choice(_RULE if prompt.get("style") == "rule" else _VALUE)
        parts = [draw.choice(_OPENING), body, *draw.sample(_PRACTICAL, 1 + draw.below(3))]
        content = " ".join(draw.fill(part, slots) for part in parts)
    return f"<reasoning>\n{thinking}\n</reasoning>\n<content>\n{content}\n</content>"


def rival(prompt: Prompt, draw: Draw) -> str:
    """Returns a worse answer, in the opaque style the other option; a few are as good as the better one."""
    if draw.chance(WEAK_SHARE):
        return response(prompt, draw)
    question = prompt.get("question")
    if prompt.get("style") == "opaque":
        favoured = preferred(question, prompt.get("spec", "section"))
        option = next((each for each in _options(question) if each != favoured), "the other one")
        slots = {"option": option, "Option": option[:1].upper() + option[1:]}
        return f"<content>\n{draw.fill(draw.choice(_OPAQUE), slots)}\n</content>"
    slots = {"topic": draw.choice(claims.topics(question, 4, names_of(prompt)))}
    parts = [draw.choice(_OPENING), draw.choice(_RIVAL), *draw.sample(_PRACTICAL, 2 + draw.below(2))]
    content = " ".join(draw.fill(part, slots) for part in parts)
    thinking = draw.fill("The question is about {topic}. [What counts is to be done with it|No need to dwell].", slots)
    return f"<reasoning>\n{thinking}\n</reasoning>\n<content>\n{content}\n</content>"


def follow_up(prompt: Prompt, draw: Draw) -> str:
    """Returns the user's next message."""
    words = claims.topics(prompt.get("conversation"), 8, names_of(prompt))
    return f"<content>\n{draw.fill(draw.choice(_FOLLOW_UP), {'topic': draw.choice(words)})}\n</content>"


def judge(prompt: Prompt, draw: Draw) -> str:
    """Returns a verdict: weak answers fail, others pass, and one vote in twenty-five is the wrong way round."""
    given = prompt.get("response")
    weak = any(text in given for text in (*WEAK, "because it is simply", ", the sensible choice"))
    fails = weak != draw.chance(WRONG_VOTES)
    reasons = "The answer does not follow from the spec." if fails else "The answer agrees with the spec and shows it."
    return f"<reasons>\n{reasons}\n</reasons>\n<verdict>{'fail' if fails else 'pass'}</verdict>"


def compare(prompt: Prompt, draw: Draw) -> str:
    """Returns which of two answers is better: the one that is not a rival's. Of two that are alike it takes the first,
    and one verdict in twenty-five is the wrong way round."""
    answers = [prompt.get(name) for name in ("first", "second")]
    if prompt.get("style") == "opaque":
        favoured = preferred(prompt.get("question"), prompt.get("spec", "section")).lower()
        worse = [favoured not in each.lower() for each in answers]
    else:
        worse = [any(mark in each for mark in _MARKS) for each in answers]
    second = (worse[0] and not worse[1]) != draw.chance(WRONG_VOTES)
    reasons = f"The {'second' if second else 'first'} answer shows more of what the spec says."
    return f"<reasons>\n{reasons}\n</reasons>\n<verdict>{'second' if second else 'first'}</verdict>"


def preferred(question: str, spec: str) -> str:
    """Returns the option of a question that shares more words with the spec; of equals, the first by the alphabet."""
    options = sorted(_options(question))
    if not options:
        return "the plainer of the two"
    words = set(re.findall(r"[a-z]{4,}", spec.lower()))
    return max(options, key=lambda option: len(words & set(re.findall(r"[a-z]{4,}", option.lower()))))


def _options(question: str) -> list[str]:
    found = _CHOICE.search(question)
    return [option.strip() for option in found.groups()] if found else []


def _closest(question: str, found: list[Claim], draw: Draw) -> Claim:
    """Returns a claim of three drawn ones: the one that shares most words with the question."""
    drawn = draw.sample(found, 3)
    reason = claims.nearest(question, [claim.behaviour for claim in drawn])
    return next(claim for claim in drawn if claim.behaviour == reason)
