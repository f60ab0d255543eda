"""GPTQ (Frantar et al. 2023, arXiv 2210.17323) with clip search, code descent and refitted scales.

Columns are rounded in order and each error is carried into the columns that follow, weighted by the expert's own Hessian
H = mean x xᵀ. Each group's range is searched for the smallest weighted error (`clip_search`), at every width; afterwards
scales and minima are refitted by least squares under H (`refit`), and codes take `sweeps` rounds of coordinate descent,
neither of which can raise a row's error. The Hessian is damped by `damping` times its mean diagonal; when Cholesky fails
damping doubles up to 0.1, and then the matrix falls back to a clip search weighted by the diagonal, with a remark.
Columns that no token ever reached are rounded like the others, never zeroed. Needs calibration statistics; about
in²·(5/2 + sweeps)·out multiply-adds a matrix.
"""

from __future__ import annotations

import torch
from pydantic import Field

from moecompress.codecs.affine import AffineSpec
from moecompress.passes.quantize.methods._clip import best_grid
from moecompress.passes.quantize.methods._descend import descend
from moecompress.passes.quantize.methods._factor import MAX_DAMPING, Factor, factorize, normalized
from moecompress.passes.quantize.methods._grid import Grid, Solution, covering, groups
from moecompress.passes.quantize.methods._propagate import FitGrid, propagate
from moecompress.passes.quantize.methods._refit import refit
from moecompress.passes.quantize.methods.base import Method, MethodOptions, Quantized
from moecompress.passes.quantize.methods.rtn import METHOD as RTN

_ROWS_AT_ONCE = 2048
_SMALLEST_NORM = 0.5


class GptqOptions(MethodOptions):
    """The defaults give the best quality; everything can be switched off to see what it brings."""

    clip_search: bool = Field(True, description="search each group's range; otherwise minimum to maximum")
    refit: bool = Field(True, description="least-squares scales and minima under the Hessian once codes are fixed")
    sweeps: int = Field(1, ge=0, le=20, description="rounds of coordinate descent over the codes, each refitted")
    damping: float = Field(0.01, gt=0, le=MAX_DAMPING, description="share of the mean diagonal added to the Hessian")


def solve(weight: torch.Tensor, spec: AffineSpec, hessian: torch.Tensor, options: GptqOptions) -> Quantized:
    """Codes of `weight` `[out, in]` for inputs with Hessian `hessian` `[in, in]`, any positive scale."""
    double = normalized(hessian)
    factor = factorize(double, options.damping)
    parts = [_solve_rows(rows.t().contiguous(), spec, double, factor, options) for rows in weight.split(_ROWS_AT_ONCE)]
    return _guarded(weight, spec, _stacked(parts, _remark(factor, options)))


def _solve_rows(
    weight: torch.Tensor, spec: AffineSpec, hessian: torch.Tensor, factor: Factor | None, options: GptqOptions
) -> Quantized:
    levels = 2**spec.bits - 1
    fit = best_grid if options.clip_search else _full_range
    if factor is None:
        importance = (hessian.diagonal() + MAX_DAMPING).float()
        return _nearest(weight, importance, levels, spec.group_size, best_grid).quantized()
    solution = propagate(weight, factor, levels, spec.group_size, fit)
    if options.refit:
        solution = refit(weight, solution, hessian)
    for _ in range(options.sweeps):
        solution = descend(weight, solution, hessian, levels)
        if options.refit:
            solution = refit(weight, solution, hessian)
    return solution.quantized()


def _full_range(values: torch.Tensor, strength: torch.Tensor, levels: int) -> Grid:
    return covering(values.amin(0), values.amax(0), levels)


def _nearest(weight: torch.Tensor, importance: torch.Tensor, levels: int, group_size: int, fit: FitGrid) -> Solution:
    """Round to nearest on fitted grids, without propagation."""
    bounds = list(groups(len(weight), group_size))
    grids = [fit(weight[start:stop], importance[start:stop], levels) for _, start, stop in bounds]
    parts = [grid.codes(weight[start:stop], levels) for grid, (_, start, stop) in zip(grids, bounds, strict=True)]
    return Solution(torch.cat(parts), grids, group_size)


def _remark(factor: Factor | None, options: GptqOptions) -> str:
    if factor is None:
        return f"Cholesky failed up to damping {MAX_DAMPING:g}: clipped rounding weighted by the Hessian's diagonal"
    if factor.damping > options.damping:
        return f"Cholesky needed damping {factor.damping:g}"
    return ""


def _stacked(parts: list[Quantized], remark: str) -> Quantized:
    codes, scales, minima = zip(*((part.codes, part.scale, part.minimum) for part in parts), strict=True)
    return Quantized(torch.cat(codes), torch.cat(scales), torch.cat(minima), remark)


def _guarded(weight: torch.Tensor, spec: AffineSpec, found: Quantized) -> Quantized:
    """`found`, or plain rounding when it lost half of the matrix's norm: a Hessian that means nothing."""
    parameters = (part.float().repeat_interleave(spec.group_size, 1)[:, : weight.shape[1]] for part in (found.scale, found.minimum))
    scale, minimum = parameters
    if (found.codes * scale + minimum).norm() >= _SMALLEST_NORM * weight.norm():
        return found
    plain = RTN(weight, spec)
    return Quantized(plain.codes, plain.scale, plain.minimum, "the solution lost half of the norm: plain rounding")


METHOD = Method(options=GptqOptions, solve=solve, needs_hessian=True)
