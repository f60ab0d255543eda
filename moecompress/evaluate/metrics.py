"""Perplexity, KL divergence to the original and top-1 agreement, window by window.

Windows do not overlap; each token but a window's first is predicted from the tokens before it in the window. The
standard error of the mean negative log-likelihood treats windows, not tokens, as the independent samples, because
neighbouring tokens are not; perplexity's follows by the delta method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def log_softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Log-probabilities `[n, vocabulary]` in nats from logits of the same shape."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted.astype(np.float32)).sum(axis=-1, keepdims=True, dtype=np.float64)
    log_probs: Floats = (shifted - np.log(total)).astype(np.float32)
    return log_probs


def kl_divergence(reference: Floats, candidate: Floats) -> npt.NDArray[np.float64]:
    """KL(reference || candidate) in nats for each row of two `[n, vocabulary]` arrays of log-probabilities."""
    kl = np.einsum("nv,nv->n", np.exp(reference), reference - candidate, dtype=np.float64)
    clipped: npt.NDArray[np.float64] = np.maximum(kl, 0.0)
    return clipped


@dataclass
class Totals:
    """Running sums over windows; `add` takes one window at a time, so memory does not grow with the text."""

    nll: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    kl: list[npt.NDArray[np.float64]] = field(default_factory=list)
    agreed: int = 0

    def add(self, ids: npt.NDArray[np.integer], log_probs: Floats, reference: Floats | None = None) -> None:
        """One window: `ids` `[n]`, log-probabilities after each token `[n, vocabulary]`, and the original's."""
        targets = ids[1:].astype(np.int64)
        predicted = log_probs[:-1]
        self.nll.append(float(-predicted[np.arange(len(targets)), targets].sum(dtype=np.float64)))
        self.counts.append(len(targets))
        if reference is not None:
            original = reference[:-1]
            self.kl.append(kl_divergence(original, predicted))
            self.agreed += int((original.argmax(axis=1) == predicted.argmax(axis=1)).sum())

    def result(self) -> Evaluation:
        """The figures over everything added."""
        tokens = sum(self.counts)
        mean = sum(self.nll) / tokens
        perplexity = math.exp(mean)
        kl = np.concatenate(self.kl) if self.kl else None
        return Evaluation(
            perplexity=perplexity,
            stderr=perplexity * self._mean_error(mean),
            tokens=tokens,
            kl_mean=float(kl.mean()) if kl is not None else None,
            kl_p99=float(np.percentile(kl, 99)) if kl is not None else None,
            kl_max=float(kl.max()) if kl is not None else None,
            top1_agreement=self.agreed / tokens if kl is not None else None,
        )

    def _mean_error(self, mean: float) -> float:
        """Standard error of the ratio estimator Σnll / Σcount over windows; 0 for a single window."""
        windows = len(self.nll)
        if windows < 2:
            return 0.0
        residuals = np.array(self.nll) - mean * np.array(self.counts)
        return float(np.sqrt(windows / (windows - 1) * np.square(residuals).sum()) / sum(self.counts))


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one text; the KL fields are None when there is no original to compare with."""

    perplexity: float
    stderr: float
    tokens: int
    kl_mean: float | None = None
    kl_p99: float | None = None
    kl_max: float | None = None
    top1_agreement: float | None = None
