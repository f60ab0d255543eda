"""PMQ's objective and constraints, on errors that are known."""

import itertools

import numpy as np
import pytest

from moecompress.passes.allocate import gemq, pmq


def test_the_objective_is_the_papers(toy):
    made = toy(
        "pmq",
        average=2,
        counts=[[10, 30], [50, 50]],
        experts=2,
        error=lambda n, e, p, b: (e + 1) * 4.0**-b,
        alpha=0.5,
        beta=1.5,
        gamma=3,
    )
    loss = pmq.losses(made.candidates, made.options, made.findings)
    share = np.array([0.25, 0.75])
    epsilon = np.sqrt(3 * np.array([[1], [2]]) * 4.0 ** -np.array([1, 2, 3]))
    np.testing.assert_allclose(loss[:2], (share**0.5 * share**1.5)[:, None] * epsilon**3)


def test_each_layer_is_the_best_of_all_allocations_of_its_own_budget(toy, falling):
    made = toy(
        "pmq",
        average=2,
        error=falling(lambda layer, expert: [[1, 8, 3, 20], [5, 5, 1, 2]][layer][expert]),
        solver="milp",
    )
    loss = pmq.losses(made.candidates, made.options, made.findings)
    chosen = made.choose()
    for layer in range(2):
        own = made.candidates.of(layer)
        best = min(
            loss[own, list(choice)].sum()
            for choice in itertools.product(range(3), repeat=4)
            if made.candidates.cost[own, list(choice)].sum() <= made.candidates.layer_limit(layer)
            and {1, 2} <= set(choice)
        )
        assert loss[own, chosen.choice[own]].sum() == pytest.approx(best)


def test_every_layer_keeps_the_two_largest_widths(toy, falling):
    flat = falling(lambda layer, expert: 1)
    counts = [[50, 50, 50, 50]] * 2
    assert {2, 3} <= set(toy("pmq", average=2, error=flat, counts=counts).bits()[0])
    assert toy("pmq", average=2, error=flat, counts=counts, spread=False).bits() == [[2] * 4] * 2


def test_one_budget_for_the_model_beats_equal_budgets(toy, falling):
    """METHODS 9.3: with the same losses, GEMQ's program is never worse than the sum of PMQ's."""
    sensitivity = falling(lambda layer, expert: [1, 40][layer] * (expert + 1))
    one = toy("gemq", average=2, error=sensitivity, solver="milp")
    many = toy("gemq", average=2, error=sensitivity, solver="milp")
    loss = gemq.losses(one.candidates, one.options, one.findings)
    spread = pmq.two_largest(many.candidates, many.options)
    equal = pmq.least_loss(many.candidates, many.options, loss, by_layer=True, spread=spread)
    assert one.choose().predicted < equal.loss
    assert np.mean(one.bits()[1]) > np.mean(one.bits()[0])


def test_more_bits_go_where_error_and_use_are(toy, falling):
    bits = toy(
        "pmq", average=2, error=falling(lambda layer, expert: [1, 1, 30, 1][expert]), counts=[[20, 20, 20, 90]] * 2
    ).bits()
    for row in bits:
        assert row[2] == 3 and row[3] >= max(row[:2])
