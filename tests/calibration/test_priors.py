"""Priors counted from routing: against counting by hand, and what they leave alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from moecompress.calibration.priors import SMOOTHING, routing_priors
from moecompress.testing.policy_checks import random_routing

EXPERTS = [5, 4, 6]
LENGTH = 10


def tables(choices, experts=EXPERTS, length=LENGTH):
    priors = routing_priors(choices, experts, length)
    most = max(experts)
    pairs = [np.frombuffer(t, "<f2").reshape(len(experts), most, most) for t in (priors.one_layer, priors.two_layer)]
    return np.frombuffer(priors.popularity, "<f4").reshape(-1, most), *pairs


def logit(p):
    return math.log(p / (1 - p))


def by_hand(choices, layer, distance, j, e):
    """One entry of a table, token by token."""
    layers, tokens = len(choices), len(choices[0])
    popularity = sum(e in row for row in choices[layer]) / tokens
    given = both = 0
    for token in range(tokens):
        back, before = divmod(layer - distance, layers)
        if token % LENGTH + back < 0:
            continue  # the sequence begins here
        if j in choices[before][token + back]:
            given += 1
            both += e in choices[layer][token]
    return logit((both + SMOOTHING * popularity) / (given + SMOOTHING)) - logit(popularity)


def test_every_entry_is_that_of_counting_by_hand():
    chosen = random_routing(EXPERTS, 2, tokens=60, seed=3).astype(np.int16)
    choices = [chosen[:, layer] for layer in range(len(EXPERTS))]
    popularity, one, two = tables(choices)
    for layer, count in enumerate(EXPERTS):
        for e in range(count):
            share = sum(e in row for row in choices[layer].tolist()) / 60
            assert popularity[layer, e] == pytest.approx(share)
            for distance, table in ((1, one), (2, two)):
                before = EXPERTS[(layer - distance) % 3]
                for j in range(before):
                    if 0 < share < 1:
                        expected = by_hand([c.tolist() for c in choices], layer, distance, j, e)
                        assert table[layer, j, e] == pytest.approx(expected, abs=4e-3)


def test_places_of_experts_that_are_not_there_are_zero():
    chosen = random_routing(EXPERTS, 2, tokens=20, seed=0)
    popularity, one, two = tables([chosen[:, layer] for layer in range(3)])
    for layer, count in enumerate(EXPERTS):
        assert not popularity[layer, count:].any() and not one[layer, :, count:].any()
        assert not two[layer, EXPERTS[layer - 2] :].any()


def test_what_an_expert_that_was_never_chosen_says_is_nothing():
    quiet = np.zeros((20, 2), np.int16) + np.array([0, 1], np.int16)
    busy = random_routing([4], 2, tokens=20, seed=0)[:, 0]
    _, one, _ = tables([quiet, busy], [4, 4])
    np.testing.assert_array_equal(one[1, 2:], 0)


def test_a_certain_successor_stands_out():
    first = np.random.default_rng(0).integers(0, 4, (400, 1))
    _, one, _ = tables([first, (first + 1) % 4], [4, 4])
    assert [int(row.argmax()) for row in one[1]] == [1, 2, 3, 0]
    assert one[1, 0, 1] > 3 and one[1, 0, 2] < -2


def test_one_layer_looks_back_to_the_token_before():
    chosen = random_routing([6], 2, tokens=400, seed=0)[:, 0]
    _, one, two = tables([chosen], [6])
    assert np.diagonal(one[0]).mean() > np.diagonal(two[0]).mean() > 0.5
