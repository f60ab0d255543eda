"""The multiple-choice knapsack: one assignment for each expert, least total loss, total cost within a limit.

`lagrangian` puts a price on cost and lets every expert choose alone: minimise loss + price · cost. Bisection finds the
lowest price at which the limit holds; what is left of the limit is then spent on the best remaining moves, and pairs of
moves are exchanged while that helps. The result never exceeds the limit, and costs at most one expert's step of loss
more than the optimum: the dual bound proves how much at most, `Solution.gap`. Ties go to the smaller cost, then to the
lower position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from moecompress.core.errors import OptionError
from moecompress.passes.allocate.base import Candidates, Floats, Integers
from moecompress.passes.allocate.options import AllocationOptions

_BISECTIONS = 100
_PAIRS = 4096  # moves beyond which pairs are not exchanged: their number grows with the square


@dataclass(frozen=True, eq=False)
class Knapsack:
    """`cost` int64 and `loss` float64, both `[U, C]`; `group` `[U]` tells the layer.

    Of every group, some expert must take each column of `spread` (a different expert for each).
    """

    cost: Integers
    loss: Floats
    limit: int
    group: Integers
    spread: tuple[int, ...] = ()

    def total(self, choice: Integers) -> tuple[int, float]:
        """Cost and loss of a choice `[U]`."""
        rows = np.arange(len(choice))
        return int(self.cost[rows, choice].sum()), float(self.loss[rows, choice].sum())

    def part(self, rows: Integers, limit: int) -> Knapsack:
        """Some of the experts under a limit of their own."""
        return Knapsack(self.cost[rows], self.loss[rows], limit, self.group[rows], self.spread)


@dataclass(frozen=True, eq=False)
class Solution:
    """A choice `[U]` within the limit; `bound` is a proven lower bound on the loss of any such choice."""

    choice: Integers
    loss: float
    bound: float

    @property
    def gap(self) -> float:
        """How much smaller than `loss` the optimum could be at most."""
        return max(0.0, self.loss - self.bound)


def solver_named(name: str) -> Callable[[Knapsack], Solution]:
    """`lagrangian` or `milp`."""
    if name == "lagrangian":
        return lagrangian
    from moecompress.passes.allocate._milp import milp_solution

    return milp_solution


def least_loss(
    candidates: Candidates,
    options: AllocationOptions,
    loss: Floats,
    by_layer: bool = False,
    spread: tuple[int, ...] = (),
) -> Solution:
    """The choice of least total loss within the candidates' limit, for the model as a whole or layer by layer.

    Raises OptionError when the limit cannot hold, with `spread` or in some layer.
    """
    solve = solver_named(options.solver)
    limit = candidates.limit
    if limit is None:
        raise OptionError(f"{options.allocate} needs an average or a size", ("bits",))
    whole = Knapsack(candidates.cost, loss, limit, candidates.layer, spread)
    if not by_layer:
        return solve(whole)
    choice = np.zeros(len(loss), np.int64)
    total = bound = 0.0
    for layer in candidates.layers:
        own = candidates.of(layer)
        found = solve(whole.part(own, candidates.layer_limit(layer)))
        choice[own] = found.choice
        total, bound = total + found.loss, bound + found.bound
    return Solution(choice, total, bound)


def lagrangian(problem: Knapsack) -> Solution:
    """A choice within one step of the optimum, and the bound that proves it. Raises OptionError when none fits."""
    choice, bound = _cheapest(problem), -np.inf
    low, high = 0.0, _price_beyond(problem)
    for _ in range(_BISECTIONS):
        price = (low + high) / 2 if low else high / 2
        if price in (low, high):
            break
        found = at_price(problem, price)
        cost, loss = problem.total(found)
        bound = max(bound, loss + price * (cost - problem.limit))
        if cost <= problem.limit:
            high, choice = price, found
        else:
            low = price
    free = at_price(problem, 0.0)
    if problem.total(free)[0] <= problem.limit:
        return Solution(free, *(problem.total(free)[1],) * 2)
    choice = _exchanged(problem, _filled(problem, choice))
    loss = problem.total(choice)[1]
    return Solution(choice, loss, min(bound, loss))


def at_price(problem: Knapsack, price: float) -> Integers:
    """The choice of least loss + price · cost; exact, `spread` included."""
    return _least(problem, problem.loss + price * problem.cost, problem.cost.astype(np.float64))


def _cheapest(problem: Knapsack) -> Integers:
    """The choice of least cost. Raises OptionError when it exceeds the limit."""
    allowed = np.where(np.isfinite(problem.loss), problem.cost, np.inf)
    choice = _least(problem, allowed, np.where(np.isfinite(problem.loss), problem.loss, np.inf))
    cost = problem.total(choice)[0]
    if cost > problem.limit:
        needs = " with a layer's required choices" if problem.spread else ""
        raise OptionError(
            f"the budget is {problem.limit} for {len(choice)} experts, which take at least {cost}{needs}; raise it",
            ("bits",),
        )
    return choice


def _least(problem: Knapsack, value: Floats, tie: Floats) -> Integers:
    """The least `value` of every row, ties by `tie` and then by position; then `spread` at the least extra value."""
    smallest = value.min(axis=1, keepdims=True)
    choice: Integers = np.where(value == smallest, tie, np.inf).argmin(axis=1).astype(np.int64)
    if problem.spread:
        extra = value[:, problem.spread] - smallest
        for group in np.unique(problem.group):
            rows = np.flatnonzero(problem.group == group)
            try:
                columns, picked = linear_sum_assignment(extra[rows].T)
            except ValueError as error:
                raise OptionError(
                    f"layer {group} has {len(rows)} experts, which cannot take all of the choices that every layer "
                    "must hold; switch spread off",
                    ("bits", "spread"),
                ) from error
            if len(columns) < len(problem.spread):
                raise OptionError(
                    f"layer {group} has fewer experts than required choices; switch spread off", ("bits", "spread")
                )
            choice[rows[picked]] = np.array(problem.spread)[columns]
    return choice


def _price_beyond(problem: Knapsack) -> float:
    """A price at which nobody pays for more than the least cost."""
    finite = problem.loss[np.isfinite(problem.loss)]
    span = float(finite.max() - finite.min()) if finite.size else 0.0
    return 2 * span + 1.0


def _filled(problem: Knapsack, choice: Integers) -> Integers:
    """Spend what is left of the limit: one move after the other, the most loss saved for each unit of cost first."""
    choice = choice.copy()
    while True:
        slack = problem.limit - problem.total(choice)[0]
        gain, extra = _moves(problem, choice)
        rate = np.where((gain > 0) & (extra <= slack), gain / np.maximum(extra, 1e-9), 0.0)
        best = int(rate.argmax())
        if rate.flat[best] <= 0:
            return choice
        choice[best // rate.shape[1]] = best % rate.shape[1]


def _exchanged(problem: Knapsack, choice: Integers) -> Integers:
    """Pairs of moves of two experts that together save loss within the limit, the best first, until there is none."""
    if problem.loss.size > _PAIRS:
        return choice
    unit = np.repeat(np.arange(len(choice)), problem.loss.shape[1])
    for _ in range(len(choice)):
        slack = problem.limit - problem.total(choice)[0]
        gain, extra = (values.ravel() for values in _moves(problem, choice))
        up, down = np.flatnonzero(gain > 0), np.flatnonzero((extra < 0) & np.isfinite(gain))
        if not len(up) or not len(down):
            return choice
        both = gain[up][:, None] + gain[down][None, :]
        fits = (extra[up][:, None] + extra[down][None, :] <= slack) & (unit[up][:, None] != unit[down][None, :])
        fits &= ~_leave_the_same(problem, choice, unit[up], unit[down])
        saved = np.where(fits, both, -np.inf)
        best = int(saved.argmax())
        if saved.flat[best] <= 1e-12 * abs(problem.total(choice)[1]):
            return choice
        choice = choice.copy()
        for move in (up[best // len(down)], down[best % len(down)]):
            choice[unit[move]] = move % problem.loss.shape[1]
    return choice


def _leave_the_same(problem: Knapsack, choice: Integers, some: Integers, others: Integers) -> npt.NDArray[np.bool_]:
    """`[some, others]`: both experts hold the same column of `spread` in the same group."""
    if not problem.spread:
        return np.zeros((len(some), len(others)), bool)
    held = np.where(np.isin(choice, problem.spread), choice, -1 - np.arange(len(choice)))
    same = held[some][:, None] == held[others][None, :]
    return np.asarray(same & (problem.group[some][:, None] == problem.group[others][None, :]))


def _moves(problem: Knapsack, choice: Integers) -> tuple[Floats, Integers]:
    """Loss saved and cost added, `[U, C]`, by moving one expert; an expert that `spread` rests on does not move."""
    rows = np.arange(len(choice))
    gain = problem.loss[rows, choice][:, None] - problem.loss
    gain[rows, choice] = 0.0
    for column in problem.spread:
        holders = np.flatnonzero(choice == column)
        alone = np.bincount(problem.group[holders], minlength=int(problem.group.max()) + 1)[problem.group[holders]] == 1
        gain[holders[alone]] = -np.inf
    return gain, problem.cost - problem.cost[rows, choice][:, None]
