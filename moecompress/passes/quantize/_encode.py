"""From matrices to encoded weights, with what each of them lost: the part that quantizing passes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.core.errors import RecipeError
from moecompress.passes.base import Weight
from moecompress.passes.quantize._options import Solver

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Outcome:
    """An encoded matrix; its relative error; what the method remarked.

    `error` is ‖(W − Ŵ) X‖ / ‖W X‖ over the calibration inputs when a Hessian was given, else ‖W − Ŵ‖ / ‖W‖.
    """

    weight: EncodedWeight
    error: float
    remark: str


def encode(
    weights: Sequence[torch.Tensor], spec: AffineSpec, hessian: torch.Tensor | None, solver: Solver
) -> list[Outcome]:
    """Quantize matrices with the same inputs and spec, solved one above the other: rows do not see each other."""
    stacked = weights[0] if len(weights) == 1 else torch.cat(list(weights))
    found = solver(stacked, spec, hessian)
    outcomes, first = [], 0
    for weight in weights:
        mine = found.rows(slice(first, first + len(weight)))
        first += len(weight)
        error = relative_error(weight, mine.values(spec.group_size), hessian)
        outcomes.append(Outcome(mine.encoded(spec), error, mine.remark))
    return outcomes


def relative_error(weight: torch.Tensor, values: torch.Tensor, hessian: torch.Tensor | None) -> float:
    """sqrt(tr(E H Eᵀ) / tr(W H Wᵀ)) with E = `weight` − `values`, both `[out, in]`; H = I if there is none."""
    lost = total = 0.0
    for rows, kept in zip(torch.split(weight, _ROWS_AT_ONCE), torch.split(values, _ROWS_AT_ONCE), strict=True):
        rows = rows.float()
        lost += _energy(rows - kept, hessian)
        total += _energy(rows, hessian)
    return (max(lost, 0.0) / total) ** 0.5 if total > 0 else 0.0


def _energy(rows: torch.Tensor, hessian: torch.Tensor | None) -> float:
    moved = rows if hessian is None else rows @ hessian.float()
    return float((moved * rows).sum(dtype=torch.float64))


def full_precision(weight: Weight, name: str, by: str) -> torch.Tensor:
    """`weight` as a tensor. Raises RecipeError when an earlier pass has already encoded it."""
    if isinstance(weight, torch.Tensor):
        return weight
    raise RecipeError(
        f"{by} met {name} as {weight.spec.key}: an earlier pass of the recipe has already encoded it, and codes cannot "
        "be quantized again. Keep one of the two passes, or let them name different roles."
    )


def rounded(value: float) -> float:
    """Five significant digits, for notes."""
    return float(f"{value:.5g}")
