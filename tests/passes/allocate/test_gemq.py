"""GEMQ against brute force, and fine-grained choices against whole experts at equal bytes."""

import itertools

import numpy as np
import pytest

from moecompress.passes.allocate import edge, fine_grained, gemq


def uneven(layer, expert, projection, bits):
    """Down is eight times as sensitive, and experts differ."""
    return (1 + 3 * expert + 10 * layer) * {"gate": 1, "up": 2, "down": 8}[projection] * 4.0**-bits


def test_it_is_the_best_of_all_allocations(toy, falling):
    made = toy(
        "gemq",
        average=2,
        experts=3,
        error=falling(lambda layer, expert: [[1, 9, 30], [2, 2, 70]][layer][expert]),
        solver="milp",
        spread=False,
    )
    loss = gemq.losses(made.candidates, made.options, made.findings)
    rows = np.arange(6)
    best = min(
        loss[rows, list(choice)].sum()
        for choice in itertools.product(range(3), repeat=6)
        if made.candidates.cost[rows, list(choice)].sum() <= made.candidates.limit
    )
    assert made.choose().predicted == pytest.approx(best)


def test_half_of_the_weighted_error_is_in_nats(toy):
    made = toy("gemq", average=2)
    np.testing.assert_allclose(gemq.losses(made.candidates, made.options, made.findings), 0.5 * 3)


@pytest.mark.parametrize("average", [1.5, 2, 2.5])
def test_smaller_units_are_never_worse_at_equal_bytes(toy, average):
    """METHODS 9.3: with additive losses, linear blocks ≤ experts, and projections ≤ linear blocks."""
    options = {"average": average, "choices": [1, 2, 3], "error": uneven, "solver": "milp"}
    whole = toy("gemq", **options, spread=False).choose().predicted
    blocks = toy("edge", **options, weight=0).choose().predicted
    single = toy("fine_grained", **options, down_first=False).choose().predicted
    assert single <= blocks + 1e-9 <= whole + 2e-9
    assert blocks < 0.95 * whole


def test_down_comes_first_when_asked(toy):
    def gate_first(layer, expert, projection, bits):
        return {"gate": 8, "up": 1, "down": 1}[projection] * 4.0**-bits

    options = {"average": 2, "choices": [1, 2, 3], "error": gate_first}
    free, held = toy("fine_grained", **options, down_first=False), toy("fine_grained", **options)
    assert np.mean(free.bits("gate")) > np.mean(free.bits("down"))
    assert (np.array(held.bits("down")) >= np.array(held.bits("gate"))).all()
    assert len(fine_grained.grid(held.options, 3)) == 1 + 4 + 9
    assert len(edge.by_block(held.options, 3)) == 9
