"""Clip search: never worse than the full range, close to the best grid that brute force finds."""

import pytest
import torch

from moecompress.passes.quantize.methods._clip import best_grid, weighted_error
from moecompress.passes.quantize.methods._grid import Grid, covering, rounded


def problem(seed, columns=64, rows=40):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(columns, rows, generator=generator)
    return values, torch.rand(columns, generator=generator) ** 3 + 1e-3


def full_range(values, levels):
    return covering(values.amin(0), values.amax(0), levels)


def true_error(values, importance, grid, levels):
    kept = grid.values(grid.codes(values, levels))
    return (importance[:, None] * (values - kept).double() ** 2).sum(0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_never_worse_than_the_full_range_and_much_better_at_few_bits(bits):
    values, importance = problem(bits)
    levels = 2**bits - 1
    before = true_error(values, importance, full_range(values, levels), levels)
    after = true_error(values, importance, best_grid(values, importance, levels), levels)
    assert (after <= before * (1 + 1e-5)).all()
    if bits <= 3:
        assert after.sum() < 0.7 * before.sum()


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_close_to_brute_force(bits):
    values, importance = problem(10 + bits, rows=6)
    levels = 2**bits - 1
    low, high = values.amin(0), values.amax(0)
    best = torch.full((6,), torch.inf, dtype=torch.float64)
    for a in torch.linspace(-0.2, 0.7, 46):
        for b in torch.linspace(-0.2, 0.7, 46):
            bottom, top = low + a * (high - low), high - b * (high - low)
            if (top > bottom).all():
                grid = Grid(rounded((top - bottom) / levels), rounded(bottom))
                best = torch.minimum(best, true_error(values, importance, grid, levels))
    found = true_error(values, importance, best_grid(values, importance, levels), levels)
    assert found.sum() <= 1.25 * best.sum() and (found <= 1.6 * best).all()


def test_the_fast_error_is_the_plain_one():
    values, importance = problem(3)
    grid = full_range(values, 7)
    torch.testing.assert_close(
        weighted_error(values, importance, grid, 7).double(), true_error(values, importance, grid, 7), rtol=1e-4, atol=0
    )


def test_important_columns_are_the_ones_that_are_kept():
    values = torch.randn(64, 30, generator=torch.Generator().manual_seed(4))
    values[5] *= 6
    plain, heavy = torch.ones(64), torch.ones(64)
    heavy[5] = 1000
    errors = [
        (values - grid.values(grid.codes(values, 3)))[5].abs().mean()
        for grid in (best_grid(values, plain, 3), best_grid(values, heavy, 3))
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("size", [0.0, 1e-30, 6e-8, 1e-5, 6e4])
def test_constant_tiny_and_huge_groups_stay_finite(size):
    values, importance = problem(5)
    for candidate in (torch.full_like(values, size), size * values / values.abs().max()):
        grid = best_grid(candidate, importance, 3)
        assert torch.isfinite(grid.scale).all() and torch.isfinite(grid.minimum).all()
        before = true_error(candidate, importance, full_range(candidate, 3), 3)
        assert (true_error(candidate, importance, grid, 3) <= before * (1 + 1e-5)).all()


def test_importance_of_zero_everywhere_gives_the_full_range():
    values, _ = problem(6)
    grid, full = best_grid(values, torch.zeros(64), 7), full_range(values, 7)
    assert torch.equal(grid.scale, full.scale) and torch.equal(grid.minimum, full.minimum)
