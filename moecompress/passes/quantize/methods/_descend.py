"""Coordinate descent over codes: a sweep that gives each code, in turn, its best value while all others stay.

With error row e = w − ŵ, the best value of column j is ŵ_j + (e H)_j / H_jj, and the code nearest to it is exactly
optimal because the row's error is a parabola in ŵ_j: no step can raise e H eᵀ. It repairs what GPTQ's fixed order
could not (the last columns have nobody to make up for them). A sweep costs about as much as the propagation itself.
"""

from __future__ import annotations

import torch

from moecompress.passes.quantize.methods._grid import Grid, Solution, groups


def descend(weight: torch.Tensor, solution: Solution, hessian: torch.Tensor, levels: int, sweeps: int = 1) -> Solution:
    """Sweeps over all columns of `weight` `[in, rows]`; `hessian` `[in, in]`. The grids stay."""
    diagonal = hessian.diagonal()
    ratios = torch.where(diagonal > 0, hessian / diagonal, 0.0).float()
    codes, errors = solution.codes.clone(), weight - solution.values()
    for _ in range(sweeps):
        for group, start, stop in groups(len(weight), solution.group_size):
            block = slice(start, stop)
            pull = ratios[:, block].t() @ errors
            _sweep_columns(pull, ratios[block, block], solution.grids[group], levels, codes[block], errors[block])
    return Solution(codes, solution.grids, solution.group_size)


def _sweep_columns(
    pull: torch.Tensor,
    ratios: torch.Tensor,
    grid: Grid,
    levels: int,
    codes: torch.Tensor,
    errors: torch.Tensor,
) -> None:
    """One group: `pull` `[columns, rows]` is (e H)_j / H_jj, kept up to date as `codes` and `errors` change."""
    for column in range(len(codes)):
        code = torch.addcmul(codes[column], pull[column], grid.inverse).round_().clamp_(0, levels)
        change = (code - codes[column]).mul_(grid.scale)
        codes[column] = code
        errors[column] -= change
        pull[column + 1 :].addr_(ratios[column, column + 1 :], change, alpha=-1)
