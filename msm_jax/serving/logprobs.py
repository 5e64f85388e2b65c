"""Log-probabilities of drawn tokens in the shapes of the OpenAI protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msm_jax.data.tokenizers import Tokenizer
from msm_jax.sampling.engine import Generation


@dataclass(frozen=True)
class Token:
    """A token as text, with its log-probability (nats) and the most likely tokens in its place.

    Attributes:
        text: its text; a special token is written as it is named.
        bytes: the text in UTF-8; None for a token that is a part of a character.
        logprob: its log-probability.
        top: the most likely tokens, the most likely first; their own `top` is empty.
    """

    text: str
    bytes: list[int] | None
    logprob: float
    top: tuple[Token, ...] = ()


def tokens(generation: Generation, tokenizer: Tokenizer) -> Iterator[Token]:
    """Yields the tokens of a reply whose request asked for log-probabilities."""
    for drawn, found in zip(generation.ids, generation.logprobs or (), strict=True):
        top = tuple(_token(tokenizer, other, logprob) for other, logprob in found.top)
        yield _token(tokenizer, drawn, found.logprob, top)


def of_chat(generation: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns `logprobs` of a choice of a chat completion."""

    def entry(token: Token) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": token.bytes}

    content = [
        {**entry(token), "top_logprobs": [entry(each) for each in token.top]} for token in tokens(generation, tokenizer)
    ]
    return {"content": content, "refusal": None}


def of_completion(generation: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns `logprobs` of a choice of a completion; offsets count characters of the reply."""
    found = list(tokens(generation, tokenizer))
    offsets = [0]
    for token in found:
        offsets.append(offsets[-1] + len(token.text))
    return {
        "tokens": [token.text for token in found],
        "token_logprobs": [token.logprob for token in found],
        "top_logprobs": [{each.text: each.logprob for each in token.top} for token in found],
        "text_offset": offsets[:-1],
    }


def _token(tokenizer: Tokenizer, token: int, logprob: float, top: tuple[Token, ...] = ()) -> Token:
    text = tokenizer.decode([token], specials=True, continues=True)
    # A probability of 0 has the logarithm -inf, which JSON cannot write; OpenAI writes -9999.
    return Token(text, None if "\ufffd" in text else list(text.encode()), max(logprob, -9999.0), top)
