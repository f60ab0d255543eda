"""Half-quadratic quantization (HQQ, Badri and Shaji 2023): data-free, robust to a group's few large weights.

Minimises Σ |w − ŵ|^p with p < 1 over each group's minimum, the scale staying that of the full range. Half-quadratic
splitting alternates two closed forms: e = shrink(w − ŵ), the sparse part of the error that is given up, and the minimum
as the mean of w − e − scale · code; then codes are rounded again. Residuals are measured in steps, so that the result
does not depend on the weights' size. The best minimum seen is kept, the first being round to nearest: never worse than
`rtn` in this objective. About `iterations` passes over the weights.
"""

from __future__ import annotations

import torch
from pydantic import Field

from moecompress.codecs.affine import AffineSpec
from moecompress.passes.quantize.methods._grid import Grid, covering, nearest, rounded, solve_rows
from moecompress.passes.quantize.methods.base import Method, MethodOptions, Quantized


class HqqOptions(MethodOptions):
    """Defaults are those of the paper."""

    iterations: int = Field(20, ge=1, le=1000, description="alternations between sparse error and minimum")
    norm: float = Field(0.7, gt=0, le=1, description="p of the error norm; smaller forgives large errors more")
    beta: float = Field(10.0, gt=0, description="weight of the splitting penalty, in steps")
    growth: float = Field(1.01, ge=1, description="factor on beta after each iteration")


def solve(weight: torch.Tensor, spec: AffineSpec, hessian: torch.Tensor | None, options: HqqOptions) -> Quantized:
    """Codes of `weight` `[out, in]`; the Hessian is not looked at."""
    levels = 2**spec.bits - 1

    def fit(values: torch.Tensor, columns: slice) -> Grid:
        return best_minimum(values, levels, options)

    return solve_rows(weight, lambda rows: nearest(rows, spec.group_size, levels, fit))


def best_minimum(values: torch.Tensor, levels: int, options: HqqOptions) -> Grid:
    """The grid of one group, `values` `[columns, rows]`: the covering scale with the minimum of smallest error norm."""
    grid = best = covering(values.amin(0), values.amax(0), levels)
    residual = _residual(values, grid, levels)
    smallest = _objective(residual, options.norm)
    beta = options.beta
    for _ in range(options.iterations):
        kept = residual - _shrink(residual, options.norm, beta)
        grid = Grid(grid.scale, rounded(grid.minimum + kept.mean(0) * grid.scale))
        residual = _residual(values, grid, levels)
        objective = _objective(residual, options.norm)
        better = objective < smallest
        best, smallest = grid.where(better, best), torch.where(better, objective, smallest)
        beta *= options.growth
    return best


def _residual(values: torch.Tensor, grid: Grid, levels: int) -> torch.Tensor:
    """(w − ŵ) / scale."""
    return (values - grid.values(grid.codes(values, levels))) * grid.inverse


def _objective(residual: torch.Tensor, norm: float) -> torch.Tensor:
    """Σ |residual|^p of each row; the scale is the same for all candidates of a row."""
    return residual.abs().pow_(norm).sum(0)


def _shrink(residual: torch.Tensor, norm: float, beta: float) -> torch.Tensor:
    """The proximal step of |·|^p: sign(r) · max(0, |r| − |r|^(p − 1) / beta)."""
    size = residual.abs()
    return residual.sign() * (size - size.clamp_min(1e-8).pow_(norm - 1) / beta).clamp_min_(0)


METHOD = Method(options=HqqOptions, solve=solve)
