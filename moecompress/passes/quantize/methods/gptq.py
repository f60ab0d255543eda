"""GPTQ (Frantar et al. 2023, arXiv 2210.17323) with clip search, code descent and refitted scales.

Columns are rounded in order and each error is carried into the columns that follow, weighted by the expert's own
Hessian H = mean x xᵀ. Each group's range is searched for the smallest weighted error (`clip_search`), at every width;
afterwards codes take `sweeps` rounds of coordinate descent, and scales and minima are refitted by least squares
(`refit`), neither of which can raise a row's error.

All of it works under H + damping · mean(diag H) · I. Damping does more than make Cholesky work: it stands for the
inputs that calibration did not see. On an expert of the reference model 0.1 gave 0.6 % less error on unseen text than
the customary 0.01 with 24 k tokens, 1.7 % with 6 k, 13 % with 1 k. When Cholesky fails damping doubles up to 0.1, and
then the matrix falls back to a clip search weighted by the diagonal, with a remark. Columns that no token ever
reached are rounded like the others, never zeroed. Needs calibration statistics; about in²·(3/2 + sweeps)·out
multiply-adds a matrix.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import Field

from moecompress.codecs.affine import AffineSpec
from moecompress.passes.quantize.methods._clip import best_grid
from moecompress.passes.quantize.methods._descend import descend
from moecompress.passes.quantize.methods._factor import MAX_DAMPING, Factor, factorize, normalized
from moecompress.passes.quantize.methods._grid import Grid, Solution, covering, nearest, solve_rows
from moecompress.passes.quantize.methods._propagate import propagate
from moecompress.passes.quantize.methods._refit import refit
from moecompress.passes.quantize.methods.base import Method, MethodOptions, Quantized
from moecompress.passes.quantize.methods.rtn import rounded_rows

_SMALLEST_NORM = 0.5


class GptqOptions(MethodOptions):
    """The defaults give the best quality; everything can be switched off to see what it brings."""

    clip_search: bool = Field(True, description="search each group's range; otherwise minimum to maximum")
    refit: bool = Field(True, description="least-squares scales and minima under the Hessian once codes are fixed")
    sweeps: int = Field(2, ge=0, le=20, description="rounds of coordinate descent over the codes")
    damping: float = Field(0.1, gt=0, le=MAX_DAMPING, description="share of the mean diagonal added to the Hessian")


def solve(weight: torch.Tensor, spec: AffineSpec, hessian: torch.Tensor, options: GptqOptions) -> Quantized:
    """Codes of `weight` `[out, in]` for inputs with Hessian `hessian` `[in, in]`, any positive scale."""
    double = normalized(hessian)
    factor = factorize(double, options.damping)
    if factor is None:
        importance = (double.diagonal() + MAX_DAMPING).float()
        return solve_rows(weight, partial(_without_factor, importance=importance, spec=spec))
    return solve_rows(weight, partial(_with_factor, factor=factor, spec=spec, options=options))


def _with_factor(weight: torch.Tensor, factor: Factor, spec: AffineSpec, options: GptqOptions) -> tuple[Solution, str]:
    levels = 2**spec.bits - 1
    fit = best_grid if options.clip_search else _full_range
    solution = propagate(weight, factor, levels, spec.group_size, fit)
    if options.sweeps:
        solution = descend(weight, solution, factor.hessian, levels, options.sweeps)
    if options.refit:
        solution = refit(weight, solution, factor.hessian)
    if solution.values().norm() < _SMALLEST_NORM * weight.norm():
        return rounded_rows(weight, spec), "the solution lost half of the norm: plain rounding"
    return solution, f"Cholesky needed damping {factor.damping:g}" if factor.damping > options.damping else ""


def _without_factor(weight: torch.Tensor, importance: torch.Tensor, spec: AffineSpec) -> tuple[Solution, str]:
    """Round to nearest on searched grids, without propagation: what is left when the Hessian has no factor."""
    levels = 2**spec.bits - 1

    def fit(values: torch.Tensor, columns: slice) -> Grid:
        return best_grid(values, importance[columns], levels)

    remark = f"Cholesky failed up to damping {MAX_DAMPING:g}: clipped rounding weighted by the Hessian's diagonal"
    return nearest(weight, spec.group_size, levels, fit), remark


def _full_range(values: torch.Tensor, strength: torch.Tensor, levels: int) -> Grid:
    return covering(values.amin(0), values.amax(0), levels)


METHOD = Method(options=GptqOptions, solve=solve, needs_hessian=True)
