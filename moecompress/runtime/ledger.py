"""Where every byte of the memory budget goes, before any is taken.

    budget >= interpreter + trunk + key-value cache + scratch + threads + text + logits + predictor + reserve + slots

The interpreter's part is measured when its libraries, the manifest and the tokenizer are loaded. The core counts its
own parts exactly. `text` is what tokenizing and keeping a full context takes, `reserve` what Python and the C library
touch for the first time while they run. Expert slots get all that is left; when every expert fits, each has its own
place and nothing is ever given up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from moecompress.core import memory
from moecompress.core.errors import BudgetError
from moecompress.core.units import format_size
from moecompress.runtime.prompt import text_bytes

CHUNKS = (256, 128, 64, 32, 16)
_THREAD_BYTES = 128 << 10  # stack and heap that a thread touches
_EXPERT_BYTES = 512  # of the core's tables and the policy's, for each expert
_RESERVE_BYTES = 5 << 20
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
    """What the ledger has to place. `needs(chunk)` counts for a prompt chunk; `top_k` experts run per token.

    `interpreter` is held before the model is loaded; `peak` was held at some time already.
    """

    needs: Callable[[int], Needs]
    top_k: int
    context: int
    threads: int  # of all kinds
    interpreter: int
    peak: int = 0
    logits: int = 0  # bytes of the largest matrix of logits that will be asked for
    predictor: int = 0  # bytes of what guesses go by
    aside: int = 0  # bytes that the caller needs beside the engine

    @property
    def floor(self) -> int:
        """The smallest budget that works: slots for two layers' worth, one in use while the next is read."""
        return max(_planned(self, CHUNKS[-1], 0).planned + self.least_cache, self.peak)

    @property
    def resident(self) -> int:
        """The smallest budget with which every expert stays in memory."""
        return max(_planned(self, CHUNKS[-1], 0).planned + self.needs(CHUNKS[-1]).all_experts, self.peak)

    @property
    def least_cache(self) -> int:
        """Bytes of the fewest experts that must be held."""
        needs = self.needs(CHUNKS[-1])
        return min(min(2 * self.top_k, needs.experts) * needs.slot, needs.all_experts)


@dataclass(frozen=True)
class MemoryPlan:
    """A budget spent. `slots` 0: every expert has a place of its own. All in bytes but `slots`, `chunk`, `context`."""

    budget: int
    interpreter: int
    trunk: int
    key_value: int
    scratch: int
    threads: int
    text: int
    logits: int
    predictor: int
    reserve: int
    cache: int
    slots: int
    chunk: int
    context: int

    @property
    def resident(self) -> bool:
        """Whether every expert stays in memory."""
        return self.slots == 0

    def parts(self) -> dict[str, int]:
        """Name → bytes of everything that is held; their sum is the most this process will hold."""
        counts = ("budget", "slots", "chunk", "context")
        return {name: value for name, value in asdict(self).items() if name not in counts}

    @property
    def planned(self) -> int:
        """The most this process will hold."""
        return sum(self.parts().values())

    @property
    def spare(self) -> int:
        """Bytes of the budget that nothing was planned for."""
        return self.budget - self.planned

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "planned": self.planned, "resident": self.resident}


def default_budget() -> int:
    """85 % of the most this process could hold, by the machine's free memory and the room of its control groups."""
    return int(memory.obtainable_bytes() * _FREE_SHARE)


def plan_memory(demand: Demand, budget: int) -> MemoryPlan:
    """Spend `budget` bytes. Raises BudgetError naming the smallest budget that works now."""
    if budget < demand.floor:
        raise _too_small(demand, budget)
    chunk = _chunk(demand, budget)
    plan, needs = _planned(demand, chunk, budget), demand.needs(chunk)
    left = budget - plan.planned
    if needs.all_experts <= left:
        return replace(plan, cache=needs.all_experts)
    slots = left // needs.slot
    return replace(plan, cache=slots * needs.slot, slots=slots)


def _planned(demand: Demand, chunk: int, budget: int) -> MemoryPlan:
    """The plan without any expert."""
    needs = demand.needs(chunk)
    return MemoryPlan(
        budget=budget,
        interpreter=demand.interpreter,
        trunk=needs.trunk,
        key_value=needs.key_value,
        scratch=needs.scratch + needs.sampling,
        threads=demand.threads * _THREAD_BYTES,
        text=text_bytes(demand.context),
        logits=demand.logits,
        predictor=demand.predictor,
        reserve=_RESERVE_BYTES + needs.experts * _EXPERT_BYTES + demand.aside,
        cache=0,
        slots=0,
        chunk=chunk,
        context=demand.context,
    )


def _chunk(demand: Demand, budget: int) -> int:
    """The largest chunk that leaves every expert in memory, or else the slots most of what both share."""
    smallest = demand.needs(CHUNKS[-1]).scratch
    shared = budget - _planned(demand, CHUNKS[-1], budget).planned + smallest
    everything = demand.needs(CHUNKS[-1]).all_experts
    fits = everything <= shared - smallest
    for chunk in CHUNKS:
        scratch = demand.needs(chunk).scratch
        if fits and scratch + everything <= shared:
            return chunk
        if not fits and scratch <= _SCRATCH_SHARE * shared and scratch + demand.least_cache <= shared:
            return chunk
    return CHUNKS[-1]


def _too_small(demand: Demand, budget: int) -> BudgetError:
    floor = _planned(demand, CHUNKS[-1], 0)
    working = floor.planned - floor.interpreter - floor.trunk - floor.key_value
    return BudgetError(
        f"A memory budget of {format_size(budget)} is too small for this model with a context of {demand.context} "
        f"tokens; the smallest that works is {_round_up(demand.floor)} MiB "
        f"(interpreter {format_size(floor.interpreter)}, weights always needed {format_size(floor.trunk)}, "
        f"key-value cache {format_size(floor.key_value)}, working memory {format_size(working)}, "
        f"experts {format_size(demand.least_cache)}). A smaller context needs less."
    )


def _round_up(count: int) -> int:
    """MiB with some to spare, so that the number in the message works when it is typed into a new process."""
    return count // (1 << 20) + 2
