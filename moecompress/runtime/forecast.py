"""What an artifact would do in several memory budgets, before it is loaded: experts kept, bytes read, tokens/s.

Sizes are exact. The rest is an estimate. Hits come from the popularity of experts by Che's approximation of an LRU
cache (Che, Tung and Wang 2002): an expert that serves a share p of the tokens is still there with probability
1 - exp(-p t), where t is such that these add up to the slots. Without known popularity every expert counts alike. Real
text repeats itself, so real hits are as a rule more; below one token set LRU keeps nothing from token to token.

Computing takes the touched bytes at a share of the measured memory speed, reading the missed ones at the measured speed
of the disk, and half of the shorter of both is hidden behind the longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moecompress.runtime.footprint import Footprint
from moecompress.runtime.ledger import Demand, plan_memory

_KERNEL_SHARE = 0.75  # of memory speed that a whole token reaches
_HIDDEN = 0.5


@dataclass(frozen=True)
class Speeds:
    """Measured bytes a second: of memory with the engine's threads, and of the disk (None: not measured)."""

    memory: float
    disk: float | None


@dataclass(frozen=True)
class Forecast:
    """One budget: `slots` experts stay in memory, `token_sets` times what a token needs. Estimates are named so."""

    budget_bytes: int
    resident: bool
    slots: int
    token_sets: float
    hit_rate_estimate: float
    bytes_per_token_estimate: int
    tokens_per_s_estimate: float | None


def forecast(
    demand: Demand, footprint: Footprint, popularity: Sequence[float], speeds: Speeds, budget: int
) -> Forecast:
    """What a budget gives. Raises BudgetError below the floor."""
    plan = plan_memory(demand, budget)
    slots = footprint.experts if plan.resident else plan.slots
    hits = 1.0 if plan.resident else expected_hits(popularity or [1.0] * footprint.experts, slots)
    if not plan.resident and slots < footprint.token_set:
        hits = 0.0
    read = round((1.0 - hits) * footprint.record_bytes)
    return Forecast(
        budget_bytes=budget,
        resident=plan.resident,
        slots=slots,
        token_sets=slots / footprint.token_set if footprint.token_set else 0.0,
        hit_rate_estimate=hits,
        bytes_per_token_estimate=read,
        tokens_per_s_estimate=_tokens_per_s(footprint.token_bytes, read, speeds),
    )


def budgets(demand: Demand, available: int) -> list[int]:
    """The floor, three steps up to the resident size, that, and what there is, if it lies between them."""
    low, high = demand.floor, demand.resident
    steps = {low + (high - low) * quarter // 4 for quarter in range(5)}
    return sorted(steps | ({available} if low < available < high else set()))


def expected_hits(popularity: Sequence[float], slots: int) -> float:
    """Share of lookups found in an LRU cache of so many experts, when each is looked up as often as its popularity."""
    used = [share for share in popularity if share > 0]
    if slots >= len(used):
        return 1.0
    low, high = 0.0, 1.0
    while _kept(used, high) < slots:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _kept(used, middle) < slots else (low, middle)
    return sum(share * -math.expm1(-share * high) for share in used) / sum(used)


def _kept(popularity: Sequence[float], time: float) -> float:
    return sum(-math.expm1(-share * time) for share in popularity)


def _tokens_per_s(touched: int, read: int, speeds: Speeds) -> float | None:
    computing = touched / (_KERNEL_SHARE * speeds.memory)
    if read and speeds.disk is None:
        return None
    reading = read / speeds.disk if read and speeds.disk else 0.0
    return 1.0 / (max(computing, reading) + (1.0 - _HIDDEN) * min(computing, reading))
