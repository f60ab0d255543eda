"""Where every byte of the memory budget goes, before any is taken.

    budget >= interpreter + trunk + key-value cache + scratch + threads + reserve + expert slots

The interpreter's part is measured when its libraries, the manifest and the tokenizer are loaded; the reserve is for
what Python and the C library take while text is generated. Expert slots get all that is left; when every expert fits,
each has its own place and nothing is ever given up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from moecompress.core import memory
from moecompress.core.errors import BudgetError
from moecompress.core.units import format_size

CHUNKS = (256, 128, 64, 32, 16)
_THREAD_BYTES = 128 << 10  # stack and heap that a thread touches
_RESERVE_BYTES = 12 << 20
_FREE_SHARE = 0.85  # of what the machine can give, when no budget is named
_SCRATCH_SHARE = 0.25  # of what is left for scratch and slots, at most, for long prompts


@dataclass(frozen=True)
class Needs:
    """Bytes of a model's parts as the core counts them, for one context and one chunk of a prompt."""

    trunk: int
    key_value: int
    scratch: int
    sampling: int
    slot: int
    all_experts: int
    experts: int


@dataclass(frozen=True)
class Demand:
    """What the ledger has to place. `needs(chunk)` counts for a prompt chunk; `top_k` experts run per token."""

    needs: Callable[[int], Needs]
    top_k: int
    context: int
    threads: int  # of all kinds


@dataclass(frozen=True)
class MemoryPlan:
    """A budget spent. `slots` 0: every expert has a place of its own. All in bytes but `slots`, `chunk`, `context`."""

    budget: int
    interpreter: int
    trunk: int
    key_value: int
    scratch: int
    threads: int
    reserve: int
    cache: int
    slots: int
    chunk: int
    context: int

    @property
    def resident(self) -> bool:
        """Whether every expert stays in memory."""
        return self.slots == 0

    @property
    def planned(self) -> int:
        """The most this process will hold."""
        parts = (self.interpreter, self.trunk, self.key_value, self.scratch, self.threads, self.reserve, self.cache)
        return sum(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "planned": self.planned, "resident": self.resident}


def default_budget() -> int:
    """85 % of what this process holds now plus what it could still get, by the machine's memory and its cgroup."""
    limits = [memory.available_bytes() + memory.rss_bytes()]
    group = memory.cgroup_limit_bytes()
    if group is not None:
        limits.append(group)
    return int(min(limits) * _FREE_SHARE)


def plan_memory(demand: Demand, budget: int) -> MemoryPlan:
    """Spend `budget` bytes. Raises BudgetError naming the smallest budget that works now."""
    floor = _spend(demand, CHUNKS[-1], budget)
    needs = demand.needs(CHUNKS[-1])
    least = min(_least_slots(demand, needs) * needs.slot, needs.all_experts)
    smallest = max(floor.planned + least, memory.peak_rss_bytes())
    if budget < smallest:
        raise BudgetError(
            f"A memory budget of {format_size(budget)} is too small for this model with a context of {demand.context} "
            f"tokens; the smallest that works is {_round_up(smallest)} MiB "
            f"(interpreter {format_size(floor.interpreter)}, weights always needed {format_size(floor.trunk)}, "
            f"key-value cache {format_size(floor.key_value)}, working memory "
            f"{format_size(floor.scratch + floor.threads + floor.reserve)}, experts {format_size(least)}). "
            "A smaller context needs less."
        )
    chunk = _largest_chunk(demand, budget, least)
    return _with_cache(_spend(demand, chunk, budget), demand.needs(chunk), budget)


def _round_up(count: int) -> int:
    """MiB with some to spare, so that the number in the message works when it is typed into a new process."""
    return count // (1 << 20) + 2


def _spend(demand: Demand, chunk: int, budget: int) -> MemoryPlan:
    needs = demand.needs(chunk)
    return MemoryPlan(
        budget=budget,
        interpreter=memory.rss_bytes(),
        trunk=needs.trunk,
        key_value=needs.key_value,
        scratch=needs.scratch + needs.sampling,
        threads=demand.threads * _THREAD_BYTES,
        reserve=_RESERVE_BYTES,
        cache=0,
        slots=0,
        chunk=chunk,
        context=demand.context,
    )


def _least_slots(demand: Demand, needs: Needs) -> int:
    """Two layers' worth: one in use while the next is read."""
    return min(2 * demand.top_k, needs.experts)


def _largest_chunk(demand: Demand, budget: int, least: int) -> int:
    """The largest chunk whose scratch leaves the slots most of what both share."""
    base = _spend(demand, CHUNKS[-1], budget)
    shared = budget - base.planned + base.scratch
    for chunk in CHUNKS:
        scratch = demand.needs(chunk).scratch
        if scratch <= _SCRATCH_SHARE * shared and scratch + least <= shared:
            return chunk
    return CHUNKS[-1]


def _with_cache(plan: MemoryPlan, needs: Needs, budget: int) -> MemoryPlan:
    left = budget - plan.planned
    values = asdict(plan)
    if needs.all_experts <= left:
        return MemoryPlan(**{**values, "cache": needs.all_experts, "slots": 0})
    slots = left // needs.slot
    return MemoryPlan(**{**values, "cache": slots * needs.slot, "slots": slots})
