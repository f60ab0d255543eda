"""Uniform grids whose scale and minimum are float16 numbers, and the codes nearest to a weight on them.

Everything here is "columns first": `[columns of one group, rows]`, with parameters `[rows]`, so that a column of the
matrix is contiguous and a group's parameters broadcast along it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from moecompress.passes.quantize.methods.base import Quantized

_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Grid:
    """`scale ≥ 0` and `minimum`, float32 tensors `[rows]` that hold float16 numbers."""

    scale: torch.Tensor
    minimum: torch.Tensor

    @cached_property
    def inverse(self) -> torch.Tensor:
        """1 / scale, and 0 where the scale is 0: such a group has code 0 only."""
        return torch.where(self.scale > 0, 1 / self.scale, 0.0)

    def codes(self, values: torch.Tensor, levels: int) -> torch.Tensor:
        """The nearest code 0..levels of each value, as float32."""
        return values.sub(self.minimum).mul_(self.inverse).round_().clamp_(0, levels)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """scale · code + minimum."""
        return (codes * self.scale).add_(self.minimum)

    def where(self, keep: torch.Tensor, other: Grid) -> Grid:
        """This grid in the rows of `keep`, the other one elsewhere."""
        return Grid(torch.where(keep, self.scale, other.scale), torch.where(keep, self.minimum, other.minimum))


def rounded(values: torch.Tensor) -> torch.Tensor:
    """The nearest float16 numbers, as float32."""
    return values.half().float()


def covering(low: torch.Tensor, high: torch.Tensor, levels: int) -> Grid:
    """The float16 grid on which every value between `low` and `high` has a code within half a step.

    The minimum is rounded down, and the scale up where the nearest one would leave `high` more than half a step outside
    (float16 subnormals). A constant that float16 holds gets scale 0, any other one a step of its rounding error.
    """
    minimum = _at_most(low)
    span = high - minimum
    nearest = (span / levels).half()
    following = (nearest.view(torch.int16) + 1).view(torch.float16)
    scale = torch.where(nearest.float() * (levels + 0.5) < span, following, nearest).float()
    return Grid(scale, minimum)


def _at_most(values: torch.Tensor) -> torch.Tensor:
    """The largest float16 numbers that are not above `values`."""
    near = values.half()
    bits = near.view(torch.int16)
    stepped = torch.where(bits < 0, bits + 1, bits - 1)
    stepped = torch.where(near == 0, torch.full_like(bits, -0x7FFF), stepped)
    return torch.where(near.float() > values, stepped.view(torch.float16), near).float()


def groups(columns: int, group_size: int) -> Iterator[tuple[int, int, int]]:
    """(group, first column, column after the last) of each group; the last group may be shorter."""
    for group, start in enumerate(range(0, columns, group_size)):
        yield group, start, min(start + group_size, columns)


@dataclass(frozen=True)
class Solution:
    """A whole matrix in the making, columns first: `codes` float32 `[in, rows]`, one `Grid` for each group."""

    codes: torch.Tensor
    grids: list[Grid]
    group_size: int

    def values(self) -> torch.Tensor:
        """The weights the codes stand for, `[in, rows]`."""
        parts = torch.split(self.codes, self.group_size)
        return torch.cat([grid.values(part) for grid, part in zip(self.grids, parts, strict=True)])

    def quantized(self, remark: str = "") -> Quantized:
        """In the codec's own arrays, rows first."""
        scale = torch.stack([grid.scale for grid in self.grids], 1).half()
        minimum = torch.stack([grid.minimum for grid in self.grids], 1).half()
        return Quantized(self.codes.t().to(torch.uint8).contiguous(), scale, minimum, remark)


def solve_rows(weight: torch.Tensor, solve: Callable[[torch.Tensor], Solution | tuple[Solution, str]]) -> Quantized:
    """Solve `weight` `[out, in]` some rows at a time, so that a vocabulary's matrix needs little memory.

    `solve` is given float32 `[in, rows]` and returns a solution, with or without a remark.
    """
    parts = []
    for rows in torch.split(weight, _ROWS_AT_ONCE):
        solved = solve(rows.float().t().contiguous())
        parts.append(solved.quantized() if isinstance(solved, Solution) else solved[0].quantized(solved[1]))
    return Quantized.stacked(parts)


def nearest(weight: torch.Tensor, group_size: int, levels: int, fit: Callable[[torch.Tensor, slice], Grid]) -> Solution:
    """Round `weight` `[in, rows]` to nearest; `fit(values, columns)` gives the grid of the group of those columns."""
    codes, grids = torch.empty_like(weight), []
    for _, start, stop in groups(len(weight), group_size):
        part = slice(start, stop)
        grids.append(fit(weight[part], part))
        codes[part] = grids[-1].codes(weight[part], levels)
    return Solution(codes, grids, group_size)
