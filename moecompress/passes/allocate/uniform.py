"""The largest choice that all experts can have alike within the budget: what every other allocator is compared with."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings
from moecompress.passes.allocate.options import AllocationOptions


class Uniform(AllocationOptions):
    """Options of `uniform`."""

    allocate: Literal["uniform"] = Field("uniform", description="the allocator's name")


def choose(candidates: Candidates, options: Uniform, findings: Findings) -> Allocation:
    """The same assignment for every expert, floors aside."""
    totals = candidates.cost.sum(axis=0)
    fitting = [choice for choice, total in enumerate(totals) if candidates.limit is None or total <= candidates.limit]
    best = max(fitting, key=lambda choice: (totals[choice], -choice))
    return Allocation(np.full(candidates.shape[0], best, np.int64))


ALLOCATOR = Allocator(options=Uniform, choose=choose)
