"""Round to nearest between each group's smallest and largest weight: the data-free baseline.

For every (row, group): minimum = min w, scale = (max w − min w) / (2^bits − 1), both rounded to float16 so that the
grid still covers the group, then code = round((w − minimum) / scale). No weight moves by more than half a step. One
pass over the weights; at 3 bits and fewer one large weight costs its whole group, so use `hqq` without calibration
data or `gptq` with it.
"""

from __future__ import annotations

from functools import partial

import torch

from moecompress.codecs.affine import AffineSpec
from moecompress.passes.quantize.methods._grid import Grid, Solution, covering, nearest, solve_rows
from moecompress.passes.quantize.methods.base import Method, MethodOptions, Quantized


class RtnOptions(MethodOptions):
    """Round to nearest has no options."""


def solve(weight: torch.Tensor, spec: AffineSpec, hessian: torch.Tensor | None, options: RtnOptions) -> Quantized:
    """Codes of `weight` `[out, in]`; the Hessian is not looked at."""
    return solve_rows(weight, partial(rounded_rows, spec=spec))


def rounded_rows(weight: torch.Tensor, spec: AffineSpec) -> Solution:
    """Codes of `weight` given columns first, `[in, rows]`."""
    levels = 2**spec.bits - 1

    def full_range(values: torch.Tensor, columns: slice) -> Grid:
        return covering(values.amin(0), values.amax(0), levels)

    return nearest(weight, spec.group_size, levels, full_range)


METHOD = Method(options=RtnOptions, solve=solve)
