"""The core's choice of a token against its plain statement, and what the options mean."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from moecompress.core.errors import RequestError
from moecompress.runtime import _native
from moecompress.runtime.sampling import Sampler, SamplingOptions
from moecompress.testing.sampling_reference import sample

LOGITS = np.array([1.0, 3.0, 3.0, -2.0, 2.0, 0.0], np.float32)


def _draws(count: int = 4000, logits: np.ndarray = LOGITS, **options: float) -> Counter[int]:
    sampler = Sampler(SamplingOptions(**options))  # type: ignore[arg-type]
    return Counter(_native.sample(logits, *sampler.draw()) for _ in range(count))


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 8.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 300, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.6, 1e-6])
def test_the_token_is_that_of_the_plain_statement(temperature, top_k, top_p):
    generator = np.random.default_rng([int(10 * temperature), top_k, int(100 * top_p)])
    for _ in range(40):
        logits = np.round(generator.normal(size=300) * 4, generator.integers(0, 4)).astype(np.float32)  # with ties
        values = (temperature, top_p, top_k, generator.random())
        assert _native.sample(logits, *values) == sample(logits, *values)


def test_greedy_takes_the_lowest_index_among_equals():
    assert _native.sample(LOGITS) == 1


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


def test_the_ends_of_the_uniform_range_give_the_first_and_the_last_token():
    assert _native.sample(LOGITS, 1.0, 1.0, 0, 0.0) == 0
    assert _native.sample(LOGITS, 1.0, 1.0, 0, 1.0) == 5


def test_a_seed_fixes_the_draws():
    samplers = [Sampler(SamplingOptions(temperature=1.0, seed=seed)) for seed in (9, 9, 10)]
    first, again, other = ([_native.sample(LOGITS, *sampler.draw()) for _ in range(50)] for sampler in samplers)
    assert first == again != other


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(value):
    broken = LOGITS.copy()
    broken[3] = value
    with pytest.raises(ValueError, match="not finite"):
        _native.sample(broken)


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_k": -1}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(RequestError, match=f"{next(iter(options))} = .* is not possible"):
        SamplingOptions(**options)
