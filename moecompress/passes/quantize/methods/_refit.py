"""With the codes fixed, the scales and minima that make each row's output error smallest: joint least squares under H.

A row's error e H eᵀ is a quadratic in its 2G parameters (G groups). The change of all of them is solved at once,
rounded to float16, and put back into the quadratic: a row keeps its old parameters unless the rounded new ones really
lower its error. All in float64, a few rows at a time so that they stay in the processor's cache. Free at run time.
Cost: one product with H, and a Cholesky of size 2G for each row.
"""

from __future__ import annotations

import torch

from moecompress.passes.quantize.methods._grid import Grid, Solution, groups, rounded

_RIDGE = 1e-7
_CACHE_BYTES = 1 << 20


def refit(weight: torch.Tensor, solution: Solution, hessian: torch.Tensor) -> Solution:
    """`solution` for `weight` `[in, rows]` with better grids where there are any; `hessian` float64 `[in, in]`."""
    bounds = list(groups(len(weight), solution.group_size))
    group_rows = torch.stack([hessian[:, start:stop].sum(1) for _, start, stop in bounds])
    parts = []
    for part in _row_slices(weight.shape[0], weight.shape[1], len(bounds)):
        mine = Solution(solution.codes[:, part], [_rows(grid, part) for grid in solution.grids], solution.group_size)
        parts.append(_refit_rows(weight[:, part], mine, hessian, group_rows))
    return Solution(solution.codes, [_joined(grids) for grids in zip(*parts, strict=True)], solution.group_size)


def _row_slices(columns: int, rows: int, group_count: int) -> list[slice]:
    size = max(32, _CACHE_BYTES // (8 * max(columns, 4 * group_count**2)))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _rows(grid: Grid, part: slice) -> Grid:
    return Grid(grid.scale[part], grid.minimum[part])


def _joined(grids: tuple[Grid, ...]) -> Grid:
    return Grid(torch.cat([grid.scale for grid in grids]), torch.cat([grid.minimum for grid in grids]))


def _refit_rows(weight: torch.Tensor, old: Solution, hessian: torch.Tensor, group_rows: torch.Tensor) -> list[Grid]:
    centered, middles = _centered_codes(old)
    errors = (weight - old.values()).double()
    system, right = _normal_equations(centered, errors, hessian, group_rows, old.group_size)
    new = _moved(old.grids, middles, _solve(system, right))
    better = _improvement(system, right, _change(old.grids, new, middles)) > 0
    return [grid.where(better, previous) for grid, previous in zip(new, old.grids, strict=True)]


def _centered_codes(solution: Solution) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes `[in, rows]` less their mean over each group (better conditioned so), and those means `[G, rows]`."""
    parts = torch.split(solution.codes.double(), solution.group_size)
    middles = [part.mean(0) for part in parts]
    return torch.cat([part - middle for part, middle in zip(parts, middles, strict=True)]), torch.stack(middles)


def _normal_equations(
    centered: torch.Tensor, errors: torch.Tensor, hessian: torch.Tensor, group_rows: torch.Tensor, group_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zᵀ H Z `[rows, 2G, 2G]` and Zᵀ H e `[rows, 2G]`; Z's columns: each group's centered codes, then each one's ones.

    `group_rows` `[G, in]` are the sums of H's columns over each group; `centered` and `errors` are `[in, rows]`.
    """
    columns, rows = centered.shape
    count = len(group_rows)
    system = torch.empty(2 * count, 2 * count, rows, dtype=torch.float64)
    right = torch.empty(2 * count, rows, dtype=torch.float64)
    for group, start, stop in groups(columns, group_size):
        moved = hessian[:, start:stop] @ centered[start:stop]
        right[group] = (moved * errors).sum(0)
        system[count:, group] = system[group, count:] = _group_sums(moved, group_size)
        system[:count, group] = _group_sums(moved.mul_(centered), group_size)
    right[count:] = group_rows @ errors
    system[count:, count:] = _group_sums(group_rows.t(), group_size)[:, :, None]
    return system.permute(2, 0, 1).contiguous(), right.t()


def _group_sums(values: torch.Tensor, group_size: int) -> torch.Tensor:
    """Sums over the columns of each group: `[in, n]` → `[G, n]`."""
    return torch.stack([part.sum(0) for part in torch.split(values, group_size)])


def _solve(system: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The best change of the parameters, `[2G, rows]`; not finite where the system is not positive definite."""
    damped = system.clone()
    damped.diagonal(dim1=1, dim2=2).mul_(1 + _RIDGE).add_(torch.finfo(torch.float32).tiny)
    factor, failed = torch.linalg.cholesky_ex(damped)
    change = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
    return torch.where((failed == 0)[:, None], change, torch.nan).t()


def _moved(grids: list[Grid], middles: torch.Tensor, change: torch.Tensor) -> list[Grid]:
    """Grids in float16 after a change of each scale and of each value at the mean code (`middles`)."""
    scales, levels = torch.split(change, len(grids))
    minima = levels - scales * middles
    return [
        Grid(rounded((grid.scale + scale).float().clamp_min(0)), rounded((grid.minimum + minimum).float()))
        for grid, scale, minimum in zip(grids, scales, minima, strict=True)
    ]


def _change(old: list[Grid], new: list[Grid], middles: torch.Tensor) -> torch.Tensor:
    """What really changed after rounding, in the unknowns of the system: `[rows, 2G]`."""
    scales = torch.stack([b.scale.double() - a.scale for a, b in zip(old, new, strict=True)])
    minima = torch.stack([b.minimum.double() - a.minimum for a, b in zip(old, new, strict=True)])
    return torch.cat([scales, minima + scales * middles]).t()


def _improvement(system: torch.Tensor, right: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """How much each row's error falls: 2 c·r − cᵀ (Zᵀ H Z) c, `[rows]`; not a number where the change is none."""
    bent = (system @ change[:, :, None])[:, :, 0]
    return (change * (2 * right - bent)).sum(1)
