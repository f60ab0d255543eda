"""The knapsack against brute force: exact where it says so, within its stated gap where not, never over the limit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moecompress.core.errors import OptionError
from moecompress.passes.allocate._knapsack import Knapsack, at_price, lagrangian
from moecompress.passes.allocate._milp import milp_solution


def toy(seed, experts=5, choices=3, groups=1, spread=(), fill=0.5, convex=True):
    """Losses fall with cost, convexly or anyhow; the limit lies at `fill` between the least and the most."""
    generator = np.random.default_rng(seed)
    cost = np.cumsum(generator.integers(1, 6, (experts, choices)), axis=1).astype(np.int64)
    steps = -np.sort(-generator.random((experts, choices)), axis=1) if convex else generator.random((experts, choices))
    loss = np.flip(np.cumsum(np.flip(steps, 1), axis=1), 1).copy()
    least, most = cost.min(1).sum(), cost.max(1).sum()
    return Knapsack(cost, loss, int(least + fill * (most - least)), np.arange(experts) % groups, spread)


def brute_force(problem):
    """The least loss of all choices within the limit, `spread` held."""
    best = np.inf
    for choice in itertools.product(range(problem.cost.shape[1]), repeat=len(problem.cost)):
        cost, loss = problem.total(np.array(choice))
        if cost <= problem.limit and loss < best and holds_spread(problem, np.array(choice)):
            best = loss
    return best


def holds_spread(problem, choice):
    return all((choice[problem.group == g] == c).any() for g in set(problem.group) for c in problem.spread)


problems = st.builds(
    toy,
    seed=st.integers(0, 2**32 - 1),
    experts=st.integers(2, 6),
    choices=st.integers(2, 4),
    fill=st.floats(0, 1.1),
    convex=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(problems)
def test_the_lagrangian_keeps_the_limit_and_its_stated_gap(problem):
    found, best = lagrangian(problem), brute_force(problem)
    cost, loss = problem.total(found.choice)
    assert cost <= problem.limit
    assert loss == pytest.approx(found.loss)
    assert best - 1e-9 <= loss <= best + found.gap + 1e-9
    assert found.bound <= best + 1e-9
    steps = problem.loss.max(axis=1) - problem.loss.min(axis=1)
    assert found.gap <= steps.max() + 1e-9, "never more than one expert's whole range from the optimum"


@settings(max_examples=25, deadline=None)
@given(problems)
def test_the_integer_program_is_the_optimum(problem):
    found = milp_solution(problem)
    assert problem.total(found.choice)[0] <= problem.limit
    assert found.loss == pytest.approx(brute_force(problem), rel=1e-6, abs=1e-9)
    assert found.loss <= lagrangian(problem).loss + 1e-12


@pytest.mark.parametrize("solve", [lagrangian, milp_solution])
@pytest.mark.parametrize("seed", range(6))
def test_every_group_holds_the_required_columns(solve, seed):
    problem = toy(seed, experts=6, groups=2, spread=(2, 1), fill=0.7)
    found = solve(problem)
    assert holds_spread(problem, found.choice) and problem.total(found.choice)[0] <= problem.limit
    best = brute_force(problem)
    assert best - 1e-9 <= found.loss <= best + found.gap + 1e-6
    if solve is milp_solution:
        assert found.loss == pytest.approx(best, rel=1e-6)


def test_a_choice_at_a_price_is_exact_with_required_columns():
    problem = toy(3, experts=5, spread=(2, 1))
    for price in (0.0, 0.05, 0.3, 10.0):
        values = {
            choice: problem.total(np.array(choice))[1] + price * problem.total(np.array(choice))[0]
            for choice in itertools.product(range(3), repeat=5)
            if holds_spread(problem, np.array(choice))
        }
        cost, loss = problem.total(at_price(problem, price))
        assert loss + price * cost == pytest.approx(min(values.values()))


def test_equal_experts_are_told_apart_by_their_position_only():
    cost, loss = np.tile([1, 2], (4, 1)), np.tile([1.0, 0.5], (4, 1))
    found = lagrangian(Knapsack(cost, loss, 6, np.zeros(4, np.int64)))
    assert found.choice.tolist() == [1, 1, 0, 0]
    assert milp_solution(Knapsack(cost, loss, 6, np.zeros(4, np.int64))).loss == found.loss


def test_forms_that_an_expert_may_not_take_are_never_chosen():
    problem = toy(1, experts=4)
    problem.loss[2, 1:] = np.inf
    for solve in (lagrangian, milp_solution):
        assert solve(problem).choice[2] == 0


@pytest.mark.parametrize("solve", [lagrangian, milp_solution])
def test_a_limit_below_the_least_cost_is_refused(solve):
    problem = toy(0)
    with pytest.raises(OptionError, match="take at least"):
        solve(Knapsack(problem.cost, problem.loss, int(problem.cost.min(1).sum()) - 1, problem.group))


def test_groups_too_small_for_the_required_columns_are_refused():
    with pytest.raises(OptionError, match="spread off"):
        lagrangian(toy(0, experts=2, groups=2, spread=(2, 1)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_one_budget_for_all_is_never_worse_than_equal_shares(seed, fill):
    """METHODS 9.3: the global objective is at most the sum of the per-layer ones."""
    problem = toy(seed, experts=6, groups=2, fill=fill)
    parts = []
    for group in range(2):
        rows = np.flatnonzero(problem.group == group)
        least = int(problem.cost[rows].min(1).sum())
        parts.append(problem.part(rows, max(least, problem.limit // 2)))
    whole = Knapsack(problem.cost, problem.loss, sum(part.limit for part in parts), problem.group)
    assert brute_force(whole) <= sum(brute_force(part) for part in parts) + 1e-12
    assert milp_solution(whole).loss <= sum(milp_solution(part).loss for part in parts) + 1e-6
