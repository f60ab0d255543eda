"""How often experts are chosen, and what earlier choices say about later ones, counted over the calibration text.

With c(j) tokens that chose expert j in an earlier layer, n(j, e) of them that chose e in the later one, and p(e) the
popularity of e there:

    table[j, e] = logit((n(j, e) + S p(e)) / (c(j) + S)) - logit(p(e))

S is the weight of the prior in tokens (Laplace smoothing towards p): without evidence the table is zero. By Bayes this
is log P(j | e) / P(j | not e), so the log-odds of e given several choices are the prior's plus a sum over the table,
as if the choices were independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moecompress.artifact.priors import Priors

SMOOTHING = 4.0  # S
_RAREST = 1e-4  # probabilities are kept this far from 0 and 1, so that log-odds are finite

Index = npt.NDArray[np.integer]
Probabilities = npt.NDArray[np.float64]


def routing_priors(choices: Sequence[Index], experts: Sequence[int], sequence_length: int) -> Priors:
    """The tables of a model from `choices[l]`, `[T, K]`: the experts each token chose in its l-th layer of experts.

    The T tokens are sequences of `sequence_length` in a row; no choice is carried from one to the next. `experts[l]` is
    the number of experts there.
    """
    layers, most = len(choices), max(experts)
    popularity = np.zeros((layers, most), np.float32)
    tables = [np.zeros((layers, most, most), np.float16) for _ in range(2)]
    for layer, chosen in enumerate(choices):
        popularity[layer] = np.bincount(chosen.ravel(), minlength=most) / len(chosen)
        for distance, table in enumerate(tables, 1):
            tokens_back, before = divmod(layer - distance, layers)
            pairs = _pairs(choices[before], chosen, -tokens_back, sequence_length)
            evidence = _evidence(*pairs, popularity[layer].astype(np.float64))
            table[layer, : experts[before], : experts[layer]] = evidence[: experts[before], : experts[layer]]
    one_layer, two_layer = (table.astype("<f2").tobytes() for table in tables)
    return Priors(popularity.astype("<f4").tobytes(), one_layer, two_layer)


def _pairs(before: Index, after: Index, tokens_back: int, length: int) -> tuple[Index, Index]:
    """Choices of tokens and of those `tokens_back` behind them in the same sequence, `[n, K]` each."""
    earlier = before.reshape(-1, length, before.shape[1])[:, : length - tokens_back]
    later = after.reshape(-1, length, after.shape[1])[:, tokens_back:]
    return earlier.reshape(-1, before.shape[1]), later.reshape(-1, after.shape[1])


def _evidence(before: Index, after: Index, popularity: Probabilities) -> Probabilities:
    most = len(popularity)
    joint = np.zeros(most * most, np.int64)
    for j in before.T:
        for e in after.T:
            joint += np.bincount(j.astype(np.int64) * most + e, minlength=most * most)
    given = np.bincount(before.ravel(), minlength=most)[:, None]
    conditional = (joint.reshape(most, most) + SMOOTHING * popularity) / (given + SMOOTHING)
    return _logit(conditional) - _logit(popularity)


def _logit(p: Probabilities) -> Probabilities:
    kept = np.clip(p, _RAREST, 1 - _RAREST)
    result: Probabilities = np.log(kept / (1 - kept))
    return result
