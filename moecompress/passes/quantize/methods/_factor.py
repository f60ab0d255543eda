"""The triangular factor of a damped Hessian: how an error in one column is made up for by the columns after it.

With H + damping · mean(diag H) · I = R Rᵀ and R upper triangular, the output error of an error row e is
e H eᵀ = ‖e R‖² = Σ_j R_jj² (e_j + Σ_{i<j} e_i R_ij / R_jj)². Quantizing column j after the columns before it, the best
it can do is to come near w_j + Σ_{i<j} e_i R_ij / R_jj: GPTQ's update, without an inverse. `ratios` are R_ij / R_jj,
`strength` is R_jj², the weight that is left to column j after all later columns have made up for what they can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

MAX_DAMPING = 0.1


@dataclass(frozen=True)
class Factor:
    """`ratios` float32 `[in, in]`, unit upper triangular; `strength` float32 `[in]`; the damped Hessian, float64, and
    the damping that was needed.
    """

    ratios: torch.Tensor
    strength: torch.Tensor
    hessian: torch.Tensor
    damping: float


def normalized(hessian: torch.Tensor) -> torch.Tensor:
    """The Hessian in float64 with a mean diagonal of 1; the identity for a Hessian of zeros."""
    double = hessian.double()
    mean = double.diagonal().mean()
    if mean <= 0:
        return torch.eye(len(double), dtype=torch.float64)
    return double / mean


def factorize(hessian: torch.Tensor, damping: float) -> Factor | None:
    """Factor a normalized Hessian; damping doubles up to 0.1 until Cholesky works. None when it never does.

    Columns without any input (zero diagonal) carry only the damping: they are rounded on their own, never zeroed.
    """
    for amount in _dampings(damping):
        damped = hessian.clone()
        damped.diagonal().add_(amount)
        reversed_lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        upper = reversed_lower.flip(0, 1)
        if not failed and torch.isfinite(upper).all():
            diagonal = upper.diagonal().clone()
            return Factor((upper / diagonal).float(), diagonal.square().float(), damped, amount)
    return None


def _dampings(first: float) -> Iterator[float]:
    amount = first
    while amount < MAX_DAMPING:
        yield amount
        amount *= 2
    yield max(first, MAX_DAMPING)
