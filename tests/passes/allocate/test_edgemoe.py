"""EdgeMoE: the importance list, and the search to a budget or a tolerance."""

import numpy as np
import pytest

from moecompress.core.errors import CalibrationError, OptionError

IMPORTANCE = np.array([5, 1, 9, 3, 2, 8, 4, 7.0])


def loss(bits):
    """Cross-entropy of a model whose experts matter by IMPORTANCE; 16 bits lose nothing."""
    return 2.0 + 1e-3 * float((IMPORTANCE * np.where(bits == 16, 0, 4.0 ** (4 - bits))).sum())


def lowered(bits):
    return {i for i, b in enumerate(np.ravel(bits)) if b == min(np.ravel(bits))}


def test_with_a_budget_the_least_important_experts_are_lowered(toy):
    made = toy("edgemoe", choices=[2, 4], average=3.25, evaluate=loss)
    assert np.mean(made.bits()) == 3.25
    assert lowered(made.bits()) == {1, 3, 4}
    details = made.choose().details
    assert details["lowered"] == 3 and details["importance"] == np.argsort(IMPORTANCE).tolist()
    assert details["evaluations"] == 9, "one for each expert and one for all"


@pytest.mark.parametrize("tolerance", ["2%", "4%", "8%"])
def test_with_a_tolerance_as_many_as_it_bears(tolerance, toy):
    made = toy("edgemoe", choices=[2, 4, 8], tolerance=tolerance, evaluate=loss)
    found, limit = made.choose(), float(tolerance[:-1]) / 100
    original = loss(np.full(8, 16))
    assert np.expm1(loss(made.bits_of(found.choice)) - original) <= limit
    assert found.predicted == pytest.approx(np.expm1(loss(made.bits_of(found.choice)) - original))
    one_more = found.choice.copy()
    one_more[found.details["importance"][found.details["lowered"]]] -= 1
    assert np.expm1(loss(made.bits_of(one_more)) - original) > limit


def test_more_tolerance_lowers_no_fewer(toy):
    bits = [
        np.mean(toy("edgemoe", choices=[2, 4, 8], tolerance=t, evaluate=loss).bits())
        for t in (0.01, 0.02, 0.04, 0.3, 0.9)
    ]
    assert bits == sorted(bits, reverse=True) and bits[0] > bits[-1] == 2


def test_the_list_beats_lots_at_the_same_number(toy):
    made = toy("edgemoe", choices=[2, 4], average=3, evaluate=loss)
    ours = loss(np.ravel(made.bits()))
    draws = [np.random.default_rng(seed).permutation([2] * 4 + [4] * 4) for seed in range(5)]
    assert ours < np.mean([loss(bits) for bits in draws])


def test_the_proxy_needs_no_evaluation(toy):
    made = toy(
        "edgemoe", choices=[2, 4], average=3, profile="proxy", error=lambda n, e, p, b: IMPORTANCE[4 * n + e] * 4.0**-b
    )
    assert lowered(made.bits()) == {1, 3, 4, 6}
    assert made.choose().details["evaluations"] == 0


def test_experts_that_no_token_reached_go_first_and_are_not_evaluated(toy):
    counts = [[10, 10, 0, 10], [10, 10, 10, 10]]
    found = toy("edgemoe", choices=[2, 4], average=3.75, evaluate=loss, counts=counts).choose()
    assert found.details["importance"][0] == 2 and found.details["evaluations"] == 8


def test_what_cannot_be_tolerated_or_evaluated_is_refused(toy):
    with pytest.raises(OptionError, match=r"tolerance of 1e-06 cannot be met"):
        toy("edgemoe", choices=[2, 4], tolerance=1e-6, evaluate=loss).choose()
    with pytest.raises(CalibrationError, match="no calibration text"):
        toy("edgemoe", choices=[2, 4], average=3).choose()
