import math

import numpy as np
import pytest

from moecompress.evaluate.metrics import Totals, kl_divergence, log_softmax


def test_log_softmax_is_a_distribution_even_for_large_logits():
    rows = log_softmax(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], dtype=np.float32))
    assert np.isfinite(rows[:, :1]).all()
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(rows[1], -math.log(3), rtol=1e-6)


def test_uniform_predictions_have_perplexity_of_the_vocabulary():
    totals = Totals()
    for _ in range(3):
        totals.add(np.array([1, 2, 3, 4]), np.full((4, 50), -math.log(50), dtype=np.float32))
    result = totals.result()
    assert result.perplexity == pytest.approx(50)
    assert result.stderr == pytest.approx(0, abs=1e-6)
    assert result.tokens == 9
    assert result.kl_mean is None


def test_kl_is_zero_for_equal_and_matches_the_definition():
    generator = np.random.default_rng(0)
    p, q = (log_softmax(generator.normal(size=(5, 7))) for _ in range(2))
    np.testing.assert_allclose(kl_divergence(p, p), 0, atol=1e-7)
    expected = [sum(math.exp(a) * (a - b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-5)


def test_a_windows_first_token_is_not_scored_and_agreement_counts_predictions():
    reference = log_softmax(np.eye(4, dtype=np.float32) * 9)
    candidate = reference.copy()
    candidate[1] = reference[2]
    totals = Totals()
    totals.add(np.array([0, 0, 1, 2]), candidate, reference)
    result = totals.result()
    assert result.tokens == 3
    assert result.top1_agreement == pytest.approx(2 / 3)
    assert result.kl_max > result.kl_mean > 0


def test_standard_error_matches_the_spread_between_windows():
    generator = np.random.default_rng(1)
    means = []
    for _ in range(200):
        totals = Totals()
        for level in generator.normal(2.0, 0.3, size=25):
            log_probs = np.full((5, 2), -level, dtype=np.float32)
            totals.add(np.zeros(5, dtype=np.int64), log_probs)
        means.append((math.log(totals.result().perplexity), totals.result().stderr / totals.result().perplexity))
    spread = np.std([mean for mean, _ in means])
    assert np.mean([error for _, error in means]) == pytest.approx(spread, rel=0.15)
