"""The next token from its logits: greedy, or drawn after temperature, top-k and top-p (Holtzman et al. 2019).

The order of filters is that of transformers: temperature, top-k, top-p. Among equal logits the lower token id comes
first, and one uniform number is drawn per token, so a seed fixes the text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moecompress.core.errors import RequestError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SamplingOptions:
    """`temperature` 0 is greedy; `top_k` 0 and `top_p` 1 leave all tokens. Raises RequestError for other ranges."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed, low, high in (
            ("temperature", self.temperature, "between 0 and 100", 0.0, 100.0),
            ("top_p", self.top_p, "above 0 and at most 1", 1e-9, 1.0),
            ("top_k", self.top_k, "at least 0", 0, 2**31),
            ("seed", self.seed, "at least 0", 0, 2**63),
        ):
            if not low <= value <= high:
                raise RequestError(f"{name} = {value} is not possible; it must be {allowed}.")


class Sampler:
    """Draws the tokens of one text."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = np.random.Generator(np.random.PCG64(options.seed))

    def next(self, logits: Floats) -> int:
        """A token id from logits [vocabulary]. Raises RequestError when a logit is not a number."""
        if not np.isfinite(logits).all():
            raise RequestError(
                "The model's logits are not finite numbers, so no token can be chosen. Verify the artifact."
            )
        if self._options.temperature == 0.0:
            return int(np.argmax(logits))
        tokens, weights = _nucleus(*_candidates(logits, self._options), self._options.top_p)
        total = np.cumsum(weights)
        place = np.searchsorted(total, self._random.random() * total[-1], side="right")
        return int(tokens[min(int(place), len(tokens) - 1)])


def _candidates(logits: Floats, options: SamplingOptions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The `top_k` likeliest tokens, all when 0, by ascending id, with weights exp(logit / temperature - largest)."""
    count = options.top_k if 0 < options.top_k < len(logits) else len(logits)
    tokens = np.arange(len(logits))
    if count < len(logits):
        least = np.partition(logits, len(logits) - count)[len(logits) - count]
        above, equal = np.flatnonzero(logits > least), np.flatnonzero(logits == least)
        tokens = np.sort(np.concatenate([above, equal[: count - len(above)]]))
    chosen = logits[tokens].astype(np.float64)
    return tokens, np.exp((chosen - chosen.max()) / options.temperature)


def _nucleus(
    tokens: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], top_p: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The likeliest tokens whose probabilities reach `top_p`, likeliest first; everything as it is when `top_p` is 1.

    Tokens below (1 - top_p) / n of all weight cannot be among them, so only the others are sorted.
    """
    if top_p >= 1.0:
        return tokens, weights
    total = weights.sum()
    kept = np.flatnonzero(weights >= (1.0 - top_p) / len(weights) * total)
    order = kept[np.argsort(-weights[kept], kind="stable")]
    reached = np.searchsorted(np.cumsum(weights[order]), top_p * total, side="left")
    order = order[: int(reached) + 1]
    return tokens[order], weights[order]
