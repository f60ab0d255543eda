"""How the next token is chosen: greedy, or drawn after temperature, top-k and top-p (Holtzman et al. 2019).

The order of filters is that of transformers: temperature, top-k, top-p. Among equal logits the lower token id comes
first, and one uniform number is drawn per token, so a seed fixes the text. The choice itself is the core's, in
`core/forward/sampling.cpp`; its plain statement is `testing/sampling_reference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from moecompress.core.errors import RequestError

Choice = tuple[float, float, int, float]  # temperature, top_p, top_k, a uniform number in [0, 1)
GREEDY: Choice = (0.0, 1.0, 0, 0.0)


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
    """The choices of one text: its options, and the uniform numbers that its seed gives."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = Random(options.seed)

    def draw(self) -> Choice:
        """What decides the next token."""
        options = self._options
        return float(options.temperature), float(options.top_p), int(options.top_k), self._random.random()
