"""What the weights alone tell of how hard they are to round: kurtosis and spectra, by projection. Needs no data.

kurtosis: fourth moment over squared variance, 3 for normal weights; outliers raise it, and with it the step of a group.
alpha: exponent of the power law that the upper half of the eigenvalues of W Wᵀ follows, by Hill's estimator, 1 + k / Σ
ln(λᵢ / λ_min); a small one means heavy tails, that is structure learnt (AlphaQ, arXiv 2606.04980). stable_rank: ‖W‖²_F
/ ‖W‖²₂. energy: share of ‖W‖²_F in the largest tenth of the singular values; what low rank could hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from moecompress.passes.base import LayerWeights, PassContext, dense
from moecompress.passes.sensitivity.base import Probe, Sensitivity

PROBE: Probe = {"kind": "shape"}
FIGURES = ("kurtosis", "alpha", "stable_rank", "energy")


def measure(layer: LayerWeights, probes: Sequence[Probe], context: PassContext) -> list[Any]:
    """`{figure: {projection: [E]}}` for each probe."""
    answer: dict[str, dict[str, list[float]]] = {name: {} for name in FIGURES}
    for expert in layer.experts:
        for projection, weight in expert.items():
            for name, value in _figures(dense(weight)).items():
                answer[name].setdefault(projection, []).append(value)
    return [answer for _ in probes]


def _figures(weight: torch.Tensor) -> dict[str, float]:
    eigenvalues = spectrum(weight)
    total = float(eigenvalues.sum()) or 1.0
    tenth = max(1, len(eigenvalues) // 10)
    return {
        "kurtosis": kurtosis(weight),
        "alpha": hill_alpha(eigenvalues),
        "stable_rank": total / (float(eigenvalues[-1]) or 1.0),
        "energy": float(eigenvalues[-tenth:].sum()) / total,
    }


def kurtosis(weight: torch.Tensor) -> float:
    """E(w − mean)⁴ / (E(w − mean)²)²; 3 for normal weights, 0 for constant ones."""
    centred = weight.double() - weight.double().mean()
    variance = float(centred.square().mean())
    return float(centred.pow(4).mean()) / variance**2 if variance > 0 else 0.0


def spectrum(weight: torch.Tensor) -> torch.Tensor:
    """Squared singular values of a matrix, ascending, float64 `[min(out, in)]`."""
    wide = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().mT
    eigenvalues: torch.Tensor = torch.linalg.eigvalsh(wide @ wide.mT)
    return eigenvalues.clamp_min(0)


def hill_alpha(eigenvalues: torch.Tensor) -> float:
    """Hill's estimate from the upper half of ascending eigenvalues; 0 where there is no spread to estimate from."""
    upper = eigenvalues[len(eigenvalues) // 2 :]
    upper = upper[upper > 0]
    spread = float(torch.log(upper / upper[0]).sum()) if len(upper) else 0.0
    return 1 + len(upper) / spread if spread > 0 else 0.0


SENSITIVITY = Sensitivity(measure)
