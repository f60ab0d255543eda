"""Predictors in the core against their plain forms."""

from __future__ import annotations

import numpy as np
import pytest

from moecompress.runtime import _native
from moecompress.testing.policy_checks import random_routing

EXPERTS, TOP_K = [7, 5, 6], 2
MOST = max(EXPERTS)


def random_tables(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    popularity = generator.random((3, MOST), np.float32)
    tables = [(scale * generator.standard_normal((3, MOST, MOST))).astype(np.float16) for _ in range(2)]
    for layer, count in enumerate(EXPERTS):
        for table in (popularity, *tables):
            table[layer, ..., count:] = 0
    return popularity, *tables


def found(predictor, chosen, tables, named):
    packed = (len(EXPERTS), MOST, *(table.tobytes() for table in tables))
    weights = np.full(chosen.shape, 0.5, np.float32)
    none = np.full((*chosen.shape[:2], 1), 0xFFFF, np.uint16)
    return _native.recall(chosen, weights, none, EXPERTS, predictor, packed, named)


def plain(chosen, tables, named, transitions):
    """How many choices are among the `named` best, by the formula of FORMAT.md §5."""
    popularity, one, two = tables
    share = np.clip(popularity.astype(np.float64), 1e-4, 1 - 1e-4)
    prior = np.log(share / (1 - share))
    flat = chosen.reshape(-1, TOP_K)
    result = []
    for moment, choice in enumerate(flat):
        layer = moment % len(EXPERTS)
        scores = prior[layer, : EXPERTS[layer]].copy()
        for distance, table in enumerate((one, two) if transitions else (), 1):
            if moment >= distance:
                for before in flat[moment - distance]:
                    scores += table[layer, before, : EXPERTS[layer]]
        best = np.argsort(-scores, kind="stable")[:named]
        result.append(sum(expert in best for expert in choice))
    return np.array(result).reshape(chosen.shape[:2])


@pytest.mark.parametrize("named", [1, 2, 4, 7])
@pytest.mark.parametrize(("predictor", "transitions"), [("popularity", False), ("edgemoe", True)])
def test_what_is_named_is_what_the_formula_names(predictor, transitions, named):
    for seed in range(3):
        chosen = random_routing(EXPERTS, TOP_K, tokens=60, seed=seed)
        tables = random_tables(seed)
        expected = plain(chosen, tables, named, transitions)
        np.testing.assert_array_equal(found(predictor, chosen, tables, named), expected)


def test_without_transitions_edgemoe_is_popularity():
    chosen = random_routing(EXPERTS, TOP_K, tokens=60, seed=9)
    tables = random_tables(9, scale=0)
    both = [found(predictor, chosen, tables, 3) for predictor in ("edgemoe", "popularity")]
    np.testing.assert_array_equal(*both)


def test_experts_always_and_never_chosen_keep_finite_scores():
    chosen = random_routing(EXPERTS, TOP_K, tokens=20, seed=1)
    _, one, two = random_tables(1)
    popularity = np.zeros((3, MOST), np.float32)
    popularity[:, 2] = 1
    named = found("edgemoe", chosen, (popularity, 0 * one, 0 * two), 1)
    np.testing.assert_array_equal(named, (chosen == 2).sum(axis=2))
