"""Grids: float16 parameters that still cover the group, from subnormal to huge, constant and zero groups included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecompress.passes.quantize.methods._grid import Grid, Solution, covering, groups, rounded

LEVELS = [2**bits - 1 for bits in range(1, 9)]


def group(seed, columns, rows, size, offset):
    generator = torch.Generator().manual_seed(seed)
    return size * (torch.randn(columns, rows, generator=generator) + offset)


def is_float16(values):
    return torch.isfinite(values).all() and torch.equal(values, rounded(values))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    columns=st.integers(1, 128),
    exponent=st.floats(-9, 3.5),
    offset=st.sampled_from([0.0, 1.0, -3.0, 5.0]),
    levels=st.sampled_from(LEVELS),
)
def test_a_covering_grid_is_never_more_than_half_a_step_off(seed, columns, exponent, offset, levels):
    values = group(seed, columns, 7, 10.0**exponent, offset)
    grid = covering(values.amin(0), values.amax(0), levels)
    assert is_float16(grid.scale) and is_float16(grid.minimum)
    codes = grid.codes(values, levels)
    assert codes.min() >= 0 and codes.max() <= levels and torch.equal(codes, codes.round())
    error = (values.double() - grid.values(codes).double()).abs()
    assert (error <= grid.scale / 2 * (1 + 1e-5) + values.abs().max() * 2e-7).all()
    span = values.amax(0) - values.amin(0)
    widest = (span + grid.minimum.abs() * 2**-10 + 1e-7) / levels
    assert (grid.scale <= widest * (1 + 2**-9) + 6e-8).all(), "the grid must not be wider than rounding makes it"


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("constant", [0.0, 1.0, -0.37, 1e-3, 3e-8, -3e-8, 1e-12, 65504.0, -65504.0, 1234.567])
def test_constant_groups(constant, levels):
    values = torch.full((32, 3), constant)
    grid = covering(values.amin(0), values.amax(0), levels)
    kept = grid.values(grid.codes(values, levels))
    assert torch.isfinite(kept).all()
    if float(torch.tensor(constant).half()) == pytest.approx(constant, rel=0, abs=0):
        assert torch.equal(kept, values), "what float16 holds is kept exactly"
        assert (grid.scale == 0).all()
    else:
        spacing = max(abs(constant) * 2**-10, 6e-8)
        assert (kept - values).abs().max() <= max(spacing / levels, 6e-8) / 2 * (1 + 1e-5)


def test_a_zero_group_between_others_stays_zero_in_its_row_only():
    values = torch.randn(64, 3)
    values[:, 1] = 0
    grid = covering(values.amin(0), values.amax(0), 3)
    kept = grid.values(grid.codes(values, 3))
    assert torch.equal(kept[:, 1], torch.zeros(64)) and kept[:, 0].abs().max() > 0.5


def test_the_minimum_is_rounded_down_and_signed_zero_is_no_trap():
    low = torch.tensor([1e-9, -1e-9, 0.0, 0.1, -0.1, 65504.0])
    grid = covering(low, low + 1, 15)
    assert (grid.minimum <= low).all()
    assert grid.minimum[0] == 0 and grid.minimum[1] < 0 and grid.minimum[2] == 0
    assert (low - grid.minimum <= low.abs() * 2**-9 + 6e-8).all()


def test_groups_cover_all_columns_once():
    assert list(groups(130, 64)) == [(0, 0, 64), (1, 64, 128), (2, 128, 130)]
    assert list(groups(5, 32)) == [(0, 0, 5)]


def test_a_solution_gives_the_codecs_arrays():
    codes = torch.arange(10.0).reshape(5, 2) % 4
    grids = [Grid(torch.tensor([0.5, 1.0]), torch.tensor([0.0, -1.0])), Grid(torch.ones(2), torch.zeros(2))]
    found = Solution(codes, grids, 3).quantized("why")
    assert found.codes.dtype == torch.uint8 and found.codes.shape == (2, 5) and found.scale.shape == (2, 2)
    assert found.scale.dtype == found.minimum.dtype == torch.float16 and found.remark == "why"
    torch.testing.assert_close(found.values(3), Solution(codes, grids, 3).values().t())
