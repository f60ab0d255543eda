"""The multiple-choice knapsack solved exactly as an integer program by HiGHS, through scipy."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from moecompress.core.errors import OptionError
from moecompress.passes.allocate._knapsack import Knapsack, Solution, lagrangian

_LARGEST = 1e4  # coefficient: HiGHS stops within 1e-6 of the optimum, whatever the scale
_TIE = 1e-8  # for the last of all columns: equal optima give the same answer


def milp_solution(problem: Knapsack) -> Solution:
    """The optimum. Raises OptionError when no choice fits the limit."""
    experts, choices = problem.loss.shape
    start = lagrangian(problem)
    scale = (np.abs(problem.loss[np.isfinite(problem.loss)]).max() or 1.0) / _LARGEST
    allowed = np.isfinite(problem.loss).ravel()
    objective = (
        np.where(allowed, problem.loss.ravel() / scale, 0.0) + _TIE * np.arange(experts * choices) / problem.loss.size
    )
    found = milp(
        objective,
        integrality=np.ones(objective.size),
        bounds=Bounds(0, allowed.astype(float)),
        constraints=_constraints(problem),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise OptionError(f"HiGHS found no allocation within the budget: {found.message}", ("bits",))
    choice = found.x.reshape(experts, choices).argmax(axis=1).astype(np.int64)
    cost, loss = problem.total(choice)
    if cost > problem.limit or loss > start.loss:  # within HiGHS's tolerances, but not exactly
        choice, loss = start.choice, start.loss
    return Solution(choice, loss, loss)


def _constraints(problem: Knapsack) -> list[LinearConstraint]:
    """One choice for each expert, the limit, and the columns that every group must hold."""
    experts, choices = problem.loss.shape
    variables = np.arange(experts * choices)
    owner = csr_array((np.ones(len(variables)), (variables // choices, variables)))
    largest = float(problem.cost.max())
    budget = csr_array(problem.cost.ravel()[None, :] / largest)
    found = [LinearConstraint(owner, 1, 1), LinearConstraint(budget, -np.inf, problem.limit / largest)]
    if problem.spread:
        rows = [
            np.where((problem.group[variables // choices] == group) & (variables % choices == column), 1.0, 0.0)
            for group in np.unique(problem.group)
            for column in problem.spread
        ]
        found.append(LinearConstraint(vstack([csr_array(row[None, :]) for row in rows]), 1, np.inf))
    return found
