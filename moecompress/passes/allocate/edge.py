"""Ours: bits by predicted divergence from the original and by what streaming them costs at the target memory.

    minimise  D / D₀ + weight · B / B₀

D predicts the KL divergence to the original in nats per token. γ is the gradient, at the layer's output, of the
cross-entropy of tokens drawn from the model's own prediction, so that E (γ · δ)² is the Fisher information's quadratic
form of an output error δ, whole and not just its diagonal; half of it is the divergence that δ brings. Gate and up
share a choice and down has its own. B is the number of bytes that a token is expected to read with a cache of `memory`
bytes (`_streaming`), which depends on all choices: prices of bytes are computed, the allocation is solved with them,
and again, until it stays. D₀ and B₀ are those of weight 0, so `weight: 0.5` buys one per cent fewer bytes for at most
half a per cent of divergence. Popular experts stay in the cache and rare ones are read seldom: it is the middle that
pays.

Not for models that fit in memory: there B is zero whatever is chosen, and `weight` has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from moecompress.core.errors import UsageError
from moecompress.core.units import parse_share, parse_size
from moecompress.passes.allocate._knapsack import least_loss
from moecompress.passes.allocate._streaming import byte_prices, bytes_per_token
from moecompress.passes.allocate._swapped import SwapOptions, separable_losses, separable_probes
from moecompress.passes.allocate.base import (
    Allocation,
    Allocator,
    Candidates,
    Findings,
    Floats,
    Integers,
    Probe,
    by_block,
)
from moecompress.passes.allocate.frequency import usage_of
from moecompress.passes.sensitivity import swap, usage

_ROUNDS = 30


def _memory(value: Any) -> int | float:
    """Bytes, or a share of the experts' bytes."""
    try:
        if isinstance(value, float) or (isinstance(value, str) and "%" in value):
            return parse_share(value)
        return parse_size(value)
    except UsageError as error:
        raise ValueError(f"{value!r} is neither a size such as 300MiB nor a share such as 50%") from error


class Edge(SwapOptions):
    """Options of `edge`."""

    allocate: Literal["edge"] = Field("edge", description="the allocator's name")
    memory: Annotated[int | float, BeforeValidator(_memory)] = Field(
        0.5, description="room for experts at run time: a size (300MiB), or a share of all experts (50%)"
    )
    weight: float = Field(0.1, ge=0, description="how much streaming counts against divergence; 0 not at all")


def probes(candidates: Candidates, options: Edge) -> Mapping[int, Sequence[Probe]]:
    """The use of the experts, and each projection swapped by each choice."""
    swaps = separable_probes(candidates, options, "model")
    return {layer: (usage.PROBE, *swaps[layer]) for layer in candidates.layers}


def losses(candidates: Candidates, options: Edge, findings: Findings) -> Floats:
    """Predicted nats per token, `[U, C]`."""
    return 0.5 * separable_losses(candidates, options, findings, "directed", "model")


def choose(candidates: Candidates, options: Edge, findings: Findings) -> Allocation:
    """The fixed point of prices and allocation with the least objective."""
    loss, popularity = losses(candidates, options, findings), usage_of(candidates, findings, "count")
    rows = np.arange(len(loss))
    base = least_loss(candidates, options, loss)
    plain = _sizes(candidates, base.choice)
    capacity = options.memory * float(plain.sum()) if isinstance(options.memory, float) else float(options.memory)
    scale, streamed = max(base.loss, 1e-300), bytes_per_token(plain, popularity, capacity)

    def objective(choice: Integers) -> float:
        read = bytes_per_token(_sizes(candidates, choice), popularity, capacity)
        return float(loss[rows, choice].sum()) / scale + options.weight * read / max(streamed, 1e-300)

    best = choice = base.choice
    seen = {choice.tobytes()}
    for _ in range(_ROUNDS if options.weight and streamed else 0):
        prices = byte_prices(_sizes(candidates, choice), popularity, capacity)
        priced = loss / scale + options.weight / streamed * prices[:, None] * candidates.bytes
        choice = least_loss(candidates, options, priced).choice
        best = min((best, choice), key=objective)
        if choice.tobytes() in seen:
            break
        seen.add(choice.tobytes())
    details = {
        "unit": "nats per token",
        "cache_bytes": int(capacity),
        "bytes_per_token": bytes_per_token(_sizes(candidates, best), popularity, capacity),
        "unweighted": {"predicted": base.loss, "bytes_per_token": streamed},
    }
    return Allocation(best, float(loss[rows, best].sum()), details)


def _sizes(candidates: Candidates, choice: Integers) -> Integers:
    return candidates.bytes[np.arange(len(choice)), choice]


def needs(options: Edge, method: Mapping[str, Any]) -> frozenset[str]:
    """The statistics behind the probes."""
    return usage.NEEDS | swap.needs(options.rounded_by(method), "model")


ALLOCATOR = Allocator(options=Edge, choose=choose, grid=by_block, probes=probes, needs=needs)
