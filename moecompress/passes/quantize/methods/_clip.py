"""The float16 grid of one group with the smallest weighted squared error: clip search, then least squares.

The error of a candidate is Σ_j importance_j (w_j − ŵ_j)², codes being the nearest ones. The search starts at the full
range, shrinks both ends together, then moves the ends one by one, and at last alternates nearest codes with the least
squares scale and minimum for them. A candidate counts only when its float16 grid is better, so the result is never
worse than min/max.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moecompress.passes.quantize.methods._grid import Grid, covering, rounded

_SHRINK_STEPS = 8
_SMALLEST_RANGE = 0.4
_END_STEPS = (0.1, 0.05)
_END_MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))
_LEAST_SQUARES_STEPS = 2


@dataclass
class _Search:
    """The best candidate of each row so far; `low` and `high` are the ends it came from."""

    values: torch.Tensor
    importance: torch.Tensor
    levels: int
    low: torch.Tensor
    high: torch.Tensor
    grid: Grid
    error: torch.Tensor

    def offer(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Try the range low..high in every row."""
        better = self.offer_grid(Grid(rounded((high - low) / self.levels), rounded(low)))
        self.low, self.high = torch.where(better, low, self.low), torch.where(better, high, self.high)

    def offer_grid(self, grid: Grid) -> torch.Tensor:
        """Try a grid in every row; says where it won. Empty grids and ones that float16 cannot hold never win."""
        error = weighted_error(self.values, self.importance, grid, self.levels)
        better = (error < self.error) & (grid.scale > 0)
        self.grid, self.error = grid.where(better, self.grid), torch.where(better, error, self.error)
        return better


def best_grid(values: torch.Tensor, importance: torch.Tensor, levels: int) -> Grid:
    """Grid `[rows]` of one group: `values` `[columns, rows]`, `importance` ≥ 0 `[columns]`."""
    low, high = values.amin(0), values.amax(0)
    grid = covering(low, high, levels)
    search = _Search(values, importance, levels, low, high, grid, weighted_error(values, importance, grid, levels))
    _shrink_both_ends(search)
    for size in _END_STEPS:
        _move_ends(search, size)
    for _ in range(_LEAST_SQUARES_STEPS):
        search.offer_grid(_least_squares(search))
    return search.grid


def weighted_error(values: torch.Tensor, importance: torch.Tensor, grid: Grid, levels: int) -> torch.Tensor:
    """Σ_j importance_j (w_j − ŵ_j)² of each row, `[rows]`. Zero where the scale is 0: `covering` made it so."""
    steps = values.sub(grid.minimum).mul_(grid.inverse)
    steps.sub_(steps.round().clamp_(0, levels))
    return (importance @ steps.square_()).mul_(grid.scale).mul_(grid.scale)


def _shrink_both_ends(search: _Search) -> None:
    low, high = search.low, search.high
    middle = (low + high) / 2
    for step in range(1, _SHRINK_STEPS + 1):
        ratio = 1 - (1 - _SMALLEST_RANGE) * step / _SHRINK_STEPS
        search.offer(torch.lerp(middle, low, ratio), torch.lerp(middle, high, ratio))


def _move_ends(search: _Search, size: float) -> None:
    """Move the ends of the best range by a fraction `size` of it: each one, and both the same way."""
    move = size * (search.high - search.low)
    for low_sign, high_sign in _END_MOVES:
        search.offer(search.low + low_sign * move / 2, search.high + high_sign * move / 2)


def _least_squares(search: _Search) -> Grid:
    """The best scale and minimum for the codes of the best grid, as float16; not finite where there is none."""
    codes = search.grid.codes(search.values, search.levels)
    weight = search.importance / search.importance.sum()
    mean_code, mean_value = weight @ codes, weight @ search.values
    codes -= mean_code
    spread = weight @ codes.square()
    scale = rounded((weight @ (codes * search.values)) / spread)
    scale = torch.where(scale > 0, scale, torch.inf)
    return Grid(scale, rounded(mean_value - scale * mean_code))
