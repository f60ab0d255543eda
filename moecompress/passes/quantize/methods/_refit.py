"""With the codes fixed, the scales and minima that make each row's output error smallest: joint least squares under H.

A row's error is a quadratic in its 2G parameters (G groups). The change of all of them is solved at once in float64, then
rounded to float16; a row keeps its old parameters unless the rounded new ones really lower e H eᵀ. Free at run time.
Cost: one product codes · H, and a Cholesky of size 2G for each row.
"""

from __future__ import annotations

import torch

from moecompress.passes.quantize.methods._grid import Grid, Solution, groups, rounded

_RIDGE = 1e-5
_SYSTEM_BYTES = 32 << 20


def row_errors(weight: torch.Tensor, values: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """e H eᵀ of each row in float64: `weight` and `values` `[in, rows]`, `hessian` float64 `[in, in]`."""
    errors = (weight - values).double()
    return (hessian @ errors).mul_(errors).sum(0)


def refit(weight: torch.Tensor, solution: Solution, hessian: torch.Tensor) -> Solution:
    """`solution` with better scales and minima where there are any; `hessian` float64 `[in, in]`."""
    group_count = len(solution.grids)
    chunk = max(64, _SYSTEM_BYTES // (8 * 4 * group_count**2))
    single = hessian.float()
    parts = []
    for rows in torch.arange(weight.shape[1]).split(chunk):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        mine = Solution(solution.codes[:, part], [_rows(grid, part) for grid in solution.grids], solution.group_size)
        parts.append(_refit_rows(weight[:, part], mine, hessian, single))
    return Solution(solution.codes, [_joined(grids) for grids in zip(*parts, strict=True)], solution.group_size)


def _rows(grid: Grid, part: slice) -> Grid:
    return Grid(grid.scale[part], grid.minimum[part])


def _joined(grids: tuple[Grid, ...]) -> Grid:
    return Grid(torch.cat([grid.scale for grid in grids]), torch.cat([grid.minimum for grid in grids]))


def _refit_rows(weight: torch.Tensor, old: Solution, hessian: torch.Tensor, single: torch.Tensor) -> list[Grid]:
    errors = (weight - old.values()).double()
    pull = hessian @ errors
    before = (pull * errors).sum(0)
    centered, middles = _centered_codes(old)
    system, right = _normal_equations(centered, pull, single, old.group_size)
    factor, failed = torch.linalg.cholesky_ex(system)
    change = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0].t()
    new = [_moved(grid, middles[g], change[g], change[g + len(old.grids)]) for g, grid in enumerate(old.grids)]
    after = row_errors(weight, Solution(old.codes, new, old.group_size).values(), hessian)
    better = (after < before) & (failed == 0)
    return [grid.where(better, previous) for grid, previous in zip(new, old.grids, strict=True)]


def _centered_codes(solution: Solution) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Codes less their mean over each group (which keeps the equations well conditioned), and those means."""
    parts = solution.codes.split(solution.group_size)
    middles = [part.mean(0) for part in parts]
    return torch.cat([part - middle for part, middle in zip(parts, middles, strict=True)]), middles


def _normal_equations(
    centered: torch.Tensor, pull: torch.Tensor, hessian: torch.Tensor, group_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zᵀ H Z `[rows, 2G, 2G]` and Zᵀ H e `[rows, 2G]`: Z's columns are each group's codes, then each group's ones."""
    columns, rows = centered.shape
    bounds = list(groups(columns, group_size))
    count = len(bounds)
    system = torch.empty(2 * count, 2 * count, rows, dtype=torch.float64)
    ones = torch.stack([hessian[:, start:stop].sum(1) for _, start, stop in bounds])
    for group, start, stop in bounds:
        moved = hessian[:, start:stop] @ centered[start:stop]
        system[:count, group] = _group_sums(moved * centered, group_size)
        system[count:, group] = _group_sums(moved, group_size)
        system[group, count:] = system[count:, group]
        system[count:, count + group] = _group_sums(ones[group][:, None], group_size)
    system.diagonal(dim1=0, dim2=1).mul_(1 + _RIDGE).add_(torch.finfo(torch.float32).tiny)
    right = torch.cat([_group_sums(pull * centered, group_size), _group_sums(pull, group_size)])
    return system.permute(2, 0, 1).contiguous(), right.t()


def _group_sums(values: torch.Tensor, group_size: int) -> torch.Tensor:
    """Sums over the columns of each group: `[in, rows]` → `[G, rows]`."""
    return torch.stack([part.sum(0) for part in values.split(group_size)])


def _moved(grid: Grid, middle: torch.Tensor, scale_change: torch.Tensor, level_change: torch.Tensor) -> Grid:
    """The changed grid in float16. The system's unknowns are the scale and the value at the group's mean code."""
    scale = rounded((grid.scale + scale_change).float().clamp_min(0))
    minimum = (grid.minimum + level_change - scale_change * middle).float()
    return Grid(scale, rounded(minimum))
