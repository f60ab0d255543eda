"""The choice of a token stated plainly, step by step as the core makes it, so that the tokens are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moecompress.runtime import _native

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]


def sample(logits: Floats, temperature: float, top_p: float, top_k: int, uniform: float) -> int:
    """A token id from logits [vocabulary], all finite."""
    if temperature == 0.0:
        return int(np.argmax(logits))
    tokens = likeliest(logits, top_k)
    scaled = (logits[tokens].astype(np.float64) - logits.max()) / temperature
    weights = _native.exp_shifted(scaled.astype(np.float32), isa="scalar").astype(np.float64)
    if top_p < 1.0:
        tokens, weights = nucleus(tokens, weights, top_p)
    reached = running_sum(weights)
    place = int(np.searchsorted(reached, uniform * reached[-1], side="right"))
    return int(tokens[min(place, len(tokens) - 1)])


def likeliest(logits: Floats, top_k: int) -> Tokens:
    """The top_k tokens of the largest logits, all for 0, by ascending id; of equal ones the lower id."""
    order = np.argsort(-logits, kind="stable")
    return np.sort(order[: top_k or len(order)])


def nucleus(tokens: Tokens, weights: npt.NDArray[np.float64], top_p: float) -> tuple[Tokens, Any]:
    """The likeliest tokens whose probabilities reach top_p, likeliest first; of equal ones the lower id first."""
    order = np.argsort(-weights, kind="stable")
    total = running_sum(weights)[-1]
    count = int(np.searchsorted(running_sum(weights[order]), top_p * total, side="left")) + 1
    return tokens[order[:count]], weights[order[:count]]


def running_sum(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums of the first 1, 2, … weights, added one after another."""
    return np.add.accumulate(weights)
