"""The sampler against a plain statement of what it should do."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from moecompress.core.errors import RequestError
from moecompress.runtime.sampling import Sampler, SamplingOptions

LOGITS = np.array([1.0, 3.0, 3.0, -2.0, 2.0, 0.0], np.float32)


def _draws(count: int = 4000, logits: np.ndarray = LOGITS, **options: float) -> Counter[int]:
    sampler = Sampler(SamplingOptions(**options))  # type: ignore[arg-type]
    return Counter(sampler.next(logits) for _ in range(count))


def test_greedy_takes_the_lowest_index_among_equals():
    assert Sampler(SamplingOptions()).next(LOGITS) == 1


def test_frequencies_are_the_softmax_at_a_temperature():
    temperature = 1.7
    weights = np.exp(LOGITS / temperature)
    expected = weights / weights.sum()
    draws = _draws(20000, temperature=temperature, seed=3)
    found = np.array([draws[token] for token in range(len(LOGITS))]) / 20000
    assert np.abs(found - expected).max() < 0.012


def test_top_k_keeps_the_lower_index_among_equals():
    assert set(_draws(temperature=5.0, top_k=3)) == {1, 2, 4}
    assert set(_draws(temperature=5.0, top_k=1)) == {1}
    assert set(_draws(temperature=50.0, top_k=0)) == set(range(6))
    assert set(_draws(temperature=50.0, top_k=99)) == set(range(6))


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.5, 0.9, 0.97, 0.999])
def test_top_p_is_the_smallest_likeliest_set_that_reaches_it(top_p):
    logits = np.random.default_rng(4).normal(size=50).astype(np.float32) * 2
    weights = np.exp(logits.astype(np.float64))
    order = np.argsort(-weights, kind="stable")
    cumulative = np.cumsum(weights[order]) / weights.sum()
    expected = set(order[: int(np.searchsorted(cumulative, top_p)) + 1].tolist())
    drawn = set(_draws(6000, logits, temperature=1.0, top_p=top_p))
    assert drawn <= expected
    assert len(drawn) >= 0.5 * len(expected)


def test_top_p_counts_within_top_k():
    weights = np.exp(LOGITS[[1, 2]].astype(np.float64))
    assert weights[0] / weights.sum() == 0.5
    assert set(_draws(temperature=1.0, top_k=2, top_p=0.4)) == {1}


def test_a_seed_fixes_the_draws():
    first, again, other = (
        [sampler.next(LOGITS) for _ in range(50)]
        for sampler in (Sampler(SamplingOptions(temperature=1.0, seed=seed)) for seed in (9, 9, 10))
    )
    assert first == again != other


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(value):
    broken = LOGITS.copy()
    broken[3] = value
    with pytest.raises(RequestError, match="not finite"):
        Sampler(SamplingOptions()).next(broken)
