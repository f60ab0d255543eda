"""Bits for each projection by Fisher-weighted error, down never below gate and up (ACL 2025 Findings 1386).

Every projection is swapped alone and their losses add up; gate, up and down of an expert may differ. The paper's
finding that down needs the most bits is the constraint `down_first`. Its unit is a group of channels; here it is the
projection, the smallest unit that has a stored form of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from moecompress.passes.allocate._knapsack import least_loss
from moecompress.passes.allocate._swapped import SwapOptions, separable_losses, separable_probes
from moecompress.passes.allocate.base import Allocation, Allocator, Assignment, Candidates, Findings, Floats, Probe
from moecompress.passes.sensitivity import swap


class FineGrained(SwapOptions):
    """Options of `fine_grained`."""

    allocate: Literal["fine_grained"] = Field("fine_grained", description="the allocator's name")
    down_first: bool = Field(True, description="down never gets fewer bits than gate or up")


def grid(options: FineGrained, levels: int) -> Sequence[Assignment]:
    """Any levels of gate, up and down, by rising size."""
    found = [(gate, up, down) for gate in range(levels) for up in range(levels) for down in range(levels)]
    kept = [row for row in found if not options.down_first or row[2] >= max(row[:2])]
    return sorted(kept, key=lambda row: (sum(row), row))


def probes(candidates: Candidates, options: FineGrained) -> Mapping[int, Sequence[Probe]]:
    """Each projection swapped by each choice."""
    return separable_probes(candidates, options, "text")


def losses(candidates: Candidates, options: FineGrained, findings: Findings) -> Floats:
    """Predicted nats per token, `[U, C]`."""
    return 0.5 * separable_losses(candidates, options, findings, "weighted", "text")


def choose(candidates: Candidates, options: FineGrained, findings: Findings) -> Allocation:
    """The least predicted loss of the whole model."""
    solved = least_loss(candidates, options, losses(candidates, options, findings))
    return Allocation(solved.choice, solved.loss, {"gap": solved.gap, "unit": "nats per token"})


def needs(options: FineGrained, method: Mapping[str, Any]) -> frozenset[str]:
    """The statistics behind the probes."""
    return swap.needs(options.rounded_by(method), "text")


ALLOCATOR = Allocator(options=FineGrained, choose=choose, grid=grid, probes=probes, needs=needs)
