"""Kurtosis and spectra of matrices whose values are known."""

import pytest
import torch

from moecompress.passes.base import LayerWeights, PassContext
from moecompress.passes.sensitivity.shape import PROBE, SENSITIVITY, hill_alpha, kurtosis, spectrum


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kurtosis_is_3_for_normal_weights_and_more_with_outliers():
    weights = normal(256, 256)
    assert kurtosis(weights) == pytest.approx(3, rel=0.05)
    weights[3, 4] = 50
    assert kurtosis(weights) > 50
    assert kurtosis(torch.ones(4, 4)) == 0


def test_the_spectrum_is_that_of_the_singular_values():
    weights = normal(12, 30)
    expected = torch.linalg.svdvals(weights.double()).square().flip(0)
    torch.testing.assert_close(spectrum(weights), expected)
    torch.testing.assert_close(spectrum(weights.T), expected)


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
def test_hill_finds_the_exponent_of_a_power_law(alpha):
    """A density λ^−α has the quantiles (1 − u)^(−1/(α − 1))."""
    uniform = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    assert hill_alpha((1 - uniform) ** (-1 / (alpha - 1))) == pytest.approx(alpha, rel=0.02)
    assert hill_alpha(torch.ones(10)) == 0


def test_low_rank_shows_as_stable_rank_and_energy():
    thin = normal(64, 2) @ normal(2, 64, seed=1)
    layer = LayerWeights(0, None, ({"up": thin, "down": normal(64, 64)},), {})
    (answer,) = SENSITIVITY.measure(layer, [PROBE], PassContext(0))
    assert answer["stable_rank"]["up"][0] < 2.01 < 10 < answer["stable_rank"]["down"][0]
    assert answer["energy"]["up"][0] == pytest.approx(1) and answer["energy"]["down"][0] < 0.4
