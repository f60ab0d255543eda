"""More bits for experts that the router uses more: Σ use · weights · 4^(−bits) is minimised, and nothing else is known.

4^(−bits) is how the squared step of a uniform grid shrinks, the same for every expert; so the order of the experts is
that of their use. A baseline: it ignores that a much-used expert may bear rounding well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from moecompress.passes.allocate._knapsack import least_loss
from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Floats, Probe
from moecompress.passes.allocate.options import AllocationOptions
from moecompress.passes.sensitivity import usage


class Frequency(AllocationOptions):
    """Options of `frequency`."""

    allocate: Literal["frequency"] = Field("frequency", description="the allocator's name")
    score: Literal["count", "weight"] = Field("count", description="tokens routed, or the routing weight they got")
    scope: Literal["model", "layer"] = Field("model", description="one budget for the model, or equal ones for layers")


def probes(candidates: Candidates, options: Frequency) -> Mapping[int, Sequence[Probe]]:
    """The router's use of each layer's experts."""
    return dict.fromkeys(candidates.layers, (usage.PROBE,))


def choose(candidates: Candidates, options: Frequency, findings: Findings) -> Allocation:
    """The least Σ use · weights · 4^(−bits)."""
    use = usage_of(candidates, findings, "count" if options.score == "count" else "used")
    solved = least_loss(candidates, options, use[:, None] * grid_error(candidates), options.scope == "layer")
    return Allocation(solved.choice, solved.loss, {"gap": solved.gap})


def usage_of(candidates: Candidates, findings: Findings, name: str) -> Floats:
    """A figure of `usage` for every expert, as a share of the layer's tokens, `[U]`."""
    shares = []
    for layer in candidates.layers:
        found = findings.of(layer, usage.PROBE)
        shares.append(np.asarray(found[name], np.float64) / found["tokens"])
    return np.concatenate(shares)


def grid_error(candidates: Candidates) -> Floats:
    """Σ over an expert's projections of weights · 4^(−bits), `[U, C]`."""
    rows: dict[int, list[float]] = {}
    for layer, moe in candidates.layers.items():
        rows[layer] = [
            sum(np.prod(moe.projection_shape(p)) * 4.0**-spec.bits for p, spec in candidates.specs(layer, c).items())
            for c in range(candidates.shape[1])
        ]
    return np.array([rows[int(layer)] for layer in candidates.layer])


def needs(options: Any, method: Mapping[str, Any]) -> frozenset[str]:
    """The statistics behind the probes."""
    return usage.NEEDS


ALLOCATOR = Allocator(options=Frequency, choose=choose, probes=probes, needs=needs)
