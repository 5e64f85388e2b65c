"""The perplexity of texts under a base model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from msm_jax.synthesis.quality.config import Reader


def perplexities(reader: Reader, texts: Sequence[str]) -> list[float]:
    """Returns the perplexity per token of each text, cut at `reader.max_characters`.

    Raises:
        InputError: a text is longer than the model takes.
        WorkError: the model failed.
    """

    async def scores() -> list[float]:
        return [each[0] for each in await asyncio.gather(*(reader.model.score("", [text]) for text in cut))]

    cut = [text[: reader.max_characters] for text in texts]
    nats = asyncio.run(scores())
    return [
        math.exp(-score / max(1, len(reader.tokenizer.encode(text)))) for score, text in zip(nats, cut, strict=True)
    ]
