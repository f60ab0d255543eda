"""Column-by-column quantization with error propagation (GPTQ, Frantar et al. 2023, arXiv 2210.17323).

Every column is rounded, and its error is carried into the columns after it: at once inside a group, by one matrix
product at the start of the next group. A group's grid is fitted when its turn comes, to the weights that it then has
to hold, each column weighted by its `strength` (see `_factor`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from moecompress.passes.quantize.methods._factor import Factor
from moecompress.passes.quantize.methods._grid import Grid, Solution, groups

FitGrid = Callable[[torch.Tensor, torch.Tensor, int], Grid]


def propagate(weight: torch.Tensor, factor: Factor, levels: int, group_size: int, fit: FitGrid) -> Solution:
    """Codes and grids of `weight` `[in, rows]`; `fit(values, strength, levels)` gives the grid of a group."""
    codes, errors = torch.empty_like(weight), torch.empty_like(weight)
    grids = []
    for _, start, stop in groups(len(weight), group_size):
        block, own = slice(start, stop), factor.ratios[start:stop, start:stop]
        carried = factor.ratios[:start, block].t() @ errors[:start]
        grid = fit(weight[block] + _spread(carried, own), factor.strength[block], levels)
        _round_columns(weight[block], carried.add_(weight[block]), own, grid, levels, codes[block], errors[block])
        grids.append(grid)
    return Solution(codes, grids, group_size)


def _spread(carried: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
    """What the group's columns would have to add if each took up its full part of the error carried into the group.

    `carried` counts every earlier group's error in full for each column; a column has less left to make up for once the
    columns before it have taken their part.
    """
    shares: torch.Tensor = torch.linalg.solve_triangular(ratios.t(), carried, upper=False, unitriangular=True)
    return shares


def _round_columns(
    weight: torch.Tensor,
    target: torch.Tensor,
    ratios: torch.Tensor,
    grid: Grid,
    levels: int,
    codes: torch.Tensor,
    errors: torch.Tensor,
) -> None:
    """One group: fills `codes` and `errors` = weight − value, column after column. `target` is used up."""
    scale, minimum, inverse = grid.scale, grid.minimum, grid.inverse
    for column in range(len(weight)):
        code = torch.sub(target[column], minimum, out=codes[column]).mul_(inverse).round_().clamp_(0, levels)
        error = torch.sub(weight[column], (code * scale).add_(minimum), out=errors[column])
        target[column + 1 :].addr_(ratios[column, column + 1 :], error)
