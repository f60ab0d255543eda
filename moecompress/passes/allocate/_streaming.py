"""What streaming an expert will cost: expected misses of a cache of given bytes, by Che's approximation.

Every token uses expert u with probability p_u. A cache of C bytes keeps what was used during the last τ tokens, so an
expert is resident with probability 1 − (1 − p_u)^τ, and τ follows from filling the cache: Σ s_u (1 − (1 − p_u)^τ) = C
for records of s_u bytes. A token then reads B = Σ s_u p_u (1 − p_u)^τ bytes.

A byte more in expert u is read again whenever u is missed, and while u is resident it takes a byte of room from the
others, which shortens τ: ∂B/∂s_u = p_u q_u + (1 − q_u) ρ with q_u = (1 − p_u)^τ and ρ the mean use of what is at the
edge of the cache, Σ s p k q / Σ s k q with k = −ln(1 − p). That is the price of a byte.
"""

from __future__ import annotations

import numpy as np

from moecompress.passes.allocate.base import Floats, Integers

_ALWAYS = 1 - 1e-9
_BISECTIONS = 200


def rates(popularity: Floats) -> Floats:
    """k = −ln(1 − p), `[U]`."""
    return -np.log1p(-np.minimum(popularity, _ALWAYS))


def residence_time(size: Integers, popularity: Floats, capacity: float) -> float:
    """τ in tokens; infinite when everything that is ever used fits."""
    used, rate = size[popularity > 0], rates(popularity[popularity > 0])
    if float(used.sum()) <= capacity:
        return np.inf
    low, high = 0.0, 1.0
    while float((used * -np.expm1(-rate * high)).sum()) < capacity:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if float((used * -np.expm1(-rate * middle)).sum()) < capacity else (low, middle)
    return low


def bytes_per_token(size: Integers, popularity: Floats, capacity: float) -> float:
    """B: what a token is expected to read."""
    return float((size * popularity * _missed(popularity, residence_time(size, popularity, capacity))).sum())


def byte_prices(size: Integers, popularity: Floats, capacity: float) -> Floats:
    """∂B/∂s, `[U]`: bytes that a token reads more for one byte more in each expert."""
    missed = _missed(popularity, residence_time(size, popularity, capacity))
    edge = size * rates(popularity) * missed
    room = float((edge * popularity).sum() / edge.sum()) if edge.sum() > 0 else 0.0
    return popularity * missed + (1 - missed) * room


def _missed(popularity: Floats, time: float) -> Floats:
    """q: the probability that an expert is not resident."""
    if np.isinf(time):
        return np.where(popularity > 0, 0.0, 1.0)
    return np.exp(-rates(popularity) * time)
