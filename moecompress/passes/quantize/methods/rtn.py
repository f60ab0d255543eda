"""Round to nearest between each group's smallest and largest weight: the data-free baseline.

For every (row, group): minimum = min w, scale = (max w − min w) / (2^bits − 1), both rounded to float16 so that the grid
still covers the group, then code = round((w − minimum) / scale). No weight moves by more than half a step. One pass over
the weights; at 3 bits and fewer one large weight costs its whole group, so use `hqq` without calibration data or `gptq`
with it.
"""

from __future__ import annotations

import torch

from moecompress.codecs.affine import AffineSpec
from moecompress.passes.quantize.methods._grid import Solution, covering, groups
from moecompress.passes.quantize.methods.base import Method, MethodOptions, Quantized


class RtnOptions(MethodOptions):
    """Round to nearest has no options."""


def solve(weight: torch.Tensor, spec: AffineSpec, hessian: torch.Tensor | None, options: RtnOptions) -> Quantized:
    """Codes of `weight` `[out, in]`; the Hessian is not looked at."""
    levels = 2**spec.bits - 1
    columns = weight.t().contiguous()
    codes, grids = torch.empty_like(columns), []
    for _, start, stop in groups(len(columns), spec.group_size):
        values = columns[start:stop]
        grid = covering(values.amin(0), values.amax(0), levels)
        codes[start:stop] = grid.codes(values, levels)
        grids.append(grid)
    return Solution(codes, grids, spec.group_size).quantized()


METHOD = Method(options=RtnOptions, solve=solve)
