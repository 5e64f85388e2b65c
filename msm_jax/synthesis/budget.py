"""What calls have cost, and the caps at which a run stops before the next call."""

from collections.abc import Mapping

from msm_jax.errors import WorkError
from msm_jax.synthesis.config import RunConfig
from msm_jax.synthesis.journal import Journal


class CapReached(WorkError):
    """A cap is reached; what was paid for is on disk."""


class Budget:
    """Tokens and dollars that were spent, by this run and by earlier ones with the same journal.

    Attributes:
        calls: replies of this run that were paid for.
    """

    def __init__(self, config: RunConfig, journal: Journal) -> None:
        """Counts the replies that the journal holds."""
        self._config = config
        self.calls = 0
        self._tokens = {model: [taken, given] for model, (_, taken, given) in journal.spent().items()}

    def add(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Counts one call."""
        self.calls += 1
        counts = self._tokens.setdefault(model, [0, 0])
        counts[0] += input_tokens
        counts[1] += output_tokens

    @property
    def tokens(self) -> int:
        """Tokens of input and output together."""
        return sum(map(sum, self._tokens.values()))

    @property
    def dollars(self) -> float | None:
        """What the tokens cost; None where a model that was called has no price."""
        return dollars(self._tokens, self._config)

    def check(self) -> None:
        """Refuses the next call once a cap is reached. So a cap is passed by no more than the calls in flight.

        Raises:
            CapReached: names the cap and what was spent.
        """
        spent, config = self.dollars, self._config
        if config.max_dollars and spent is not None and spent >= config.max_dollars:
            raise CapReached(f"the cap run.max_dollars = {config.max_dollars:g} is reached (${spent:,.2f} spent)")
        if config.max_tokens and self.tokens >= config.max_tokens:
            raise CapReached(f"the cap run.max_tokens = {config.max_tokens:,} is reached ({self.tokens:,} tokens used)")


def dollars(tokens: Mapping[str, list[int]], config: RunConfig) -> float | None:
    """Returns what tokens {model: [input, output]} cost; None where a model has no price."""
    total = 0.0
    for model, counts in tokens.items():
        price = config.price(model)
        if price is None:
            return None
        total += price.dollars(*counts)
    return total
