"""Predicted losses `[U, C]` from swap findings, for allocators that weigh measured output errors.

`joint`: every assignment was swapped in as a whole. `separable`: each projection was swapped alone and an assignment's
loss is the sum, so few probes tell the loss of many assignments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from moecompress.passes.allocate.base import Candidates, Findings, Floats, Probe
from moecompress.passes.allocate.options import AllocationOptions
from moecompress.passes.sensitivity import swap

Figure = Literal["error", "weighted", "directed"]
RTN: Mapping[str, Any] = {"method": "rtn", "method_options": {}, "weighting": "none"}


class SwapOptions(AllocationOptions):
    """Options of allocators that swap experts."""

    rounding: Literal["rtn", "same"] = Field(
        "rtn", description="how experts are rounded to measure them: rtn, or same: by the pass's own method (slower)"
    )
    tokens: int = Field(1024, ge=1, description="at most so many tokens of each expert are looked at")

    def rounded_by(self, method: Mapping[str, Any]) -> Mapping[str, Any]:
        """The quantizer of the probes, where `method` is the pass's own."""
        return method if self.rounding == "same" else RTN


def joint_probes(
    candidates: Candidates, options: SwapOptions, gradient: swap.Gradient = "none"
) -> Mapping[int, Sequence[Probe]]:
    """One probe for each assignment."""
    return {layer: tuple(dict_of(_joint(candidates, options, gradient, layer)).values()) for layer in candidates.layers}


def joint_losses(
    candidates: Candidates, options: SwapOptions, findings: Findings, figure: Figure, gradient: swap.Gradient = "none"
) -> Floats:
    """`[U, C]`."""
    parts = []
    for layer in candidates.layers:
        asked = _joint(candidates, options, gradient, layer)
        parts.append(np.array([findings.of(layer, probe)[figure] for probe in asked], np.float64).T)
    return np.concatenate(parts)


def _joint(candidates: Candidates, options: SwapOptions, gradient: swap.Gradient, layer: int) -> list[Probe]:
    method = options.rounded_by(candidates.method)
    specs = [candidates.specs(layer, choice) for choice in range(candidates.shape[1])]
    return [swap.probe(chosen, method, gradient, options.tokens) for chosen in specs]


def separable_probes(
    candidates: Candidates, options: SwapOptions, gradient: swap.Gradient = "none"
) -> Mapping[int, Sequence[Probe]]:
    """One probe for each projection and level that some assignment uses."""
    found = {}
    for layer in candidates.layers:
        rows = [_separable(candidates, options, gradient, layer, choice) for choice in range(candidates.shape[1])]
        found[layer] = tuple(dict_of([probe for row in rows for probe in row]).values())
    return found


def separable_losses(
    candidates: Candidates,
    options: SwapOptions,
    findings: Findings,
    figure: Figure,
    gradient: swap.Gradient = "none",
    root: bool = False,
) -> Floats:
    """`[U, C]`; `root` adds up roots, that is norms instead of their squares."""
    parts = []
    for layer in candidates.layers:
        columns = []
        for choice in range(candidates.shape[1]):
            asked = _separable(candidates, options, gradient, layer, choice)
            values = np.array([findings.of(layer, probe)[figure] for probe in asked], np.float64)
            columns.append((np.sqrt(values) if root else values).sum(axis=0))
        parts.append(np.array(columns).T)
    return np.concatenate(parts)


def _separable(
    candidates: Candidates, options: SwapOptions, gradient: swap.Gradient, layer: int, choice: int
) -> list[Probe]:
    method = options.rounded_by(candidates.method)
    specs = candidates.specs(layer, choice)
    return [swap.probe({p: spec}, method, gradient, options.tokens) for p, spec in specs.items()]


def dict_of(probes: Sequence[Probe]) -> dict[str, Probe]:
    """The probes without repetition, in order."""
    from moecompress.core.hashing import canonical_json

    return {canonical_json(probe): probe for probe in probes}
