"""Bits drawn by lot within the budget: the control that every measured sensitivity has to beat.

From the smallest choice everywhere, experts drawn one after the other are raised by one step while the budget lasts.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Integers
from moecompress.passes.allocate.options import AllocationOptions


class Random(AllocationOptions):
    """Options of `random`."""

    allocate: Literal["random"] = Field("random", description="the allocator's name")
    seed: int = Field(0, ge=0, description="chooses the lots")


def choose(candidates: Candidates, options: Random, findings: Findings) -> Allocation:
    """One seeded order of all steps of all experts; a step that no longer fits is passed over."""
    experts, choices = candidates.shape
    tickets = np.random.default_rng(options.seed).permutation(np.repeat(np.arange(experts), choices - 1))
    return Allocation(raised_in_order(candidates, tickets), details={"seed": options.seed})


def raised_in_order(candidates: Candidates, tickets: Integers) -> Integers:
    """From the smallest choice, each ticket raises its expert to its next dearer choice if the budget allows it."""
    order = np.argsort(candidates.cost, axis=1, kind="stable")
    rank = np.zeros(candidates.shape[0], np.int64)
    costs = np.take_along_axis(candidates.cost, order, axis=1)
    left = (candidates.limit if candidates.limit is not None else int(costs[:, -1].sum())) - int(costs[:, 0].sum())
    for expert in tickets:
        if rank[expert] + 1 == candidates.shape[1]:
            continue
        step = int(costs[expert, rank[expert] + 1] - costs[expert, rank[expert]])
        if step <= left:
            rank[expert] += 1
            left -= step
    return order[np.arange(len(rank)), rank]


ALLOCATOR = Allocator(options=Random, choose=choose)
