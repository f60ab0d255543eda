"""EdgeMoE's expert-wise bitwidth adaptation (Yi et al., arXiv 2308.14352): an importance list and a search along it.

The importance of an expert is the loss when it alone has the lower of two choices and all others have the higher. The K
least important experts get the lower one. With `average` or `size` K is the smallest that meets the budget. With
`tolerance` it is the largest for which perplexity on the calibration text rises by no more than that over the
original's (bisection; the two choices are the adjacent ones between which uniform bits begin to fail). Nothing is
promised for other text.

`profile: exact` evaluates the model once for every expert, as the paper does; `proxy` takes the change of the block's
output instead, one sweep over the layers; `auto` is exact up to 64 experts in all. Experts that no token reached are
the least important without being evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from moecompress.core.errors import CalibrationError, OptionError
from moecompress.core.fields import Share
from moecompress.passes.allocate._swapped import SwapOptions, joint_losses, joint_probes
from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Floats, Integers, Probe
from moecompress.passes.allocate.frequency import usage_of
from moecompress.passes.allocate.options import Choice
from moecompress.passes.sensitivity import swap, usage

_EXACT_UP_TO = 64


class EdgeMoe(SwapOptions):
    """Options of `edgemoe`."""

    budgets: ClassVar[tuple[str, ...]] = ("average", "size", "tolerance")

    allocate: Literal["edgemoe"] = Field("edgemoe", description="the allocator's name")
    choices: tuple[Choice, ...] = Field((2, 4, 8), min_length=1, description="bit widths to choose two from")
    tolerance: Share | None = Field(None, description="largest rise of perplexity over the original's (2%)")
    profile: Literal["auto", "exact", "proxy"] = Field(
        "auto", description="evaluate every expert, or its layer's output"
    )
    evaluation_tokens: int = Field(4096, gt=1, description="calibration tokens of each evaluation")

    def exact(self, experts: int) -> bool:
        """Whether every expert is evaluated."""
        return self.profile == "exact" or (self.profile == "auto" and experts <= _EXACT_UP_TO)


def probes(candidates: Candidates, options: EdgeMoe) -> Mapping[int, Sequence[Probe]]:
    """The use of the experts; for the proxy also each of them swapped by each choice."""
    if options.exact(candidates.shape[0]):
        return dict.fromkeys(candidates.layers, (usage.PROBE,))
    swaps = joint_probes(candidates, options)
    return {layer: (usage.PROBE, *swaps[layer]) for layer in candidates.layers}


def choose(candidates: Candidates, options: EdgeMoe, findings: Findings) -> Allocation:
    """The importance list, cut where the budget or the tolerance says."""
    loss = _Loss(candidates, options, findings)
    low, high = loss.bracket() if options.tolerance is not None else _bracket(candidates)
    order = np.lexsort((np.arange(candidates.shape[0]), loss.importance(low, high)))

    def with_lowered(count: int) -> Integers:
        choice = np.full(candidates.shape[0], high, np.int64)
        choice[order[:count]] = low
        return choice

    if options.tolerance is None:
        count = _first(
            candidates.shape[0], lambda count: _cost(candidates, with_lowered(count)) <= (candidates.limit or 0)
        )
    else:
        count = _first(candidates.shape[0] + 1, lambda count: not loss.tolerated(with_lowered(count))) - 1
    details = {"lowered": count, "importance": order.tolist(), "evaluations": loss.evaluations}
    return Allocation(with_lowered(count), loss.last if options.tolerance is not None else None, details)


class _Loss:
    """Measured losses, each evaluated once."""

    def __init__(self, candidates: Candidates, options: EdgeMoe, findings: Findings) -> None:
        self._candidates, self._options, self._findings = candidates, options, findings
        self._known: dict[bytes, float] = {}
        self.last: float | None = None

    @property
    def evaluations(self) -> int:
        """How often the model was evaluated."""
        return len(self._known)

    def of(self, choice: Integers) -> float:
        """Mean cross-entropy with a choice; −1 leaves an expert as it was."""
        if self._findings.evaluate is None:
            raise CalibrationError("edgemoe has to evaluate the model, and there is no calibration text at hand.")
        key = choice.tobytes()
        if key not in self._known:
            self._known[key] = self._findings.evaluate(choice, self._options.evaluation_tokens)
        return self._known[key]

    def tolerated(self, choice: Integers) -> bool:
        """Whether perplexity rises by no more than the tolerance."""
        original = self.of(np.full(len(choice), -1, np.int64))
        rise = float(np.expm1(self.of(choice) - original))
        fits = rise <= (self._options.tolerance or 0.0)
        self.last = rise if fits else self.last
        return fits

    def bracket(self) -> tuple[int, int]:
        """Adjacent choices: the smallest uniform one within the tolerance and the one below it."""
        experts, choices = self._candidates.shape
        last = choices - 1
        if not self.tolerated(np.full(experts, last, np.int64)):
            raise OptionError(
                f"a tolerance of {self._options.tolerance} cannot be met: the largest of the choices exceeds it "
                "everywhere; offer a larger one or tolerate more",
                ("bits", "tolerance"),
            )
        while last > 0 and self.tolerated(np.full(experts, last - 1, np.int64)):
            last -= 1
        return max(0, last - 1), last

    def importance(self, low: int, high: int) -> Floats:
        """Loss that lowering each expert alone brings, `[U]`."""
        used = usage_of(self._candidates, self._findings, "count") > 0
        if not self._options.exact(len(used)):
            losses = joint_losses(self._candidates, self._options, self._findings, "error")
            return np.where(used, losses[:, low] - losses[:, high], 0.0)
        base = np.full(len(used), high, np.int64)
        found = np.zeros(len(used))
        for expert in np.flatnonzero(used):
            alone = base.copy()
            alone[expert] = low
            found[expert] = self.of(alone) - self.of(base)
        return np.where(used, found, -np.inf)


def _bracket(candidates: Candidates) -> tuple[int, int]:
    """The largest uniform choice within the budget and the one above it."""
    totals = candidates.cost.sum(axis=0)
    low = max(choice for choice in range(len(totals)) if totals[choice] <= (candidates.limit or 0))
    return low, min(low + 1, len(totals) - 1)


def _cost(candidates: Candidates, choice: Integers) -> int:
    return int(candidates.cost[np.arange(len(choice)), choice].sum())


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The smallest number below `count` for which `holds` does, or `count`; it must hold for all after the first."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def needs(options: EdgeMoe, method: Mapping[str, Any]) -> frozenset[str]:
    """The statistics behind the probes."""
    return usage.NEEDS | swap.needs(options.rounded_by(method), "none")


ALLOCATOR = Allocator(options=EdgeMoe, choose=choose, probes=probes, needs=needs)
