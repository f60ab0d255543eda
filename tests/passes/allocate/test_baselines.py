"""uniform, random and frequency: what the others are compared with."""

import numpy as np
import pytest


def test_uniform_is_the_largest_width_that_fits(toy):
    assert toy("uniform", average=3.9).bits() == [[3] * 4] * 2
    assert toy("uniform", average=9).bits() == [[4] * 4] * 2
    assert toy("uniform", average=3.2, floors={"down": 4}).bits() == [[4] * 4] * 2
    assert toy("uniform", average=3.4, floors={"down": 4}).bits("up") == [[3] * 4] * 2


def test_uniform_counts_scales_and_alignment(toy):
    """Groups of 64 add half a bit; records of 98,304 weights are padded to pages."""
    assert toy("uniform", average=3.5, count="effective").bits() == [[2] * 4] * 2, "a 3-bit record is a page over 3.5"
    assert toy("uniform", average=3.7, count="effective").bits() == [[3] * 4] * 2


def test_random_uses_up_the_budget_and_follows_its_seed(toy):
    rows = [np.array(toy("random", average=2.5, seed=seed, layers=3).bits()) for seed in range(4)]
    assert all(row.mean() == 2.5 for row in rows)
    assert len({row.tobytes() for row in rows}) == 4
    assert np.array_equal(rows[0], toy("random", average=2.5, seed=0, layers=3).bits())


def test_frequency_gives_bits_to_the_experts_in_use(toy):
    counts = [[90, 1, 40, 5], [1, 80, 2, 60]]
    bits = np.array(toy("frequency", average=2.5, counts=counts).bits())
    for layer, row in enumerate(bits):
        assert (np.diff(row[np.argsort(counts[layer])]) >= 0).all()
    assert bits.mean() == 2.5 and bits[0, 0] == 4


def test_frequency_may_keep_to_layers(toy):
    counts = [[900, 800, 700, 600], [1, 2, 3, 4]]
    whole = np.array(toy("frequency", average=2.5, counts=counts).bits())
    layers = np.array(toy("frequency", average=2.5, counts=counts, scope="layer").bits())
    assert whole[0].mean() > 3 > 2 > whole[1].mean()
    assert layers.mean(axis=1).tolist() == [2.5, 2.5]


@pytest.mark.parametrize("name", ["uniform", "random", "frequency"])
def test_a_choice_may_have_its_own_group(name, toy):
    choices = [2, {"bits": 2, "group_size": 32}]
    made = toy(name, average=2.8, count="effective", choices=choices)
    groups = [spec.group_size for spec in made.candidates.levels]
    assert groups == [64, 32]
    cost = made.candidates.cost[np.arange(8), made.choose().choice].sum()
    assert cost <= made.candidates.limit
