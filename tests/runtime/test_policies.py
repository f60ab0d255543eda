"""Cache policies in the core against their plain Python forms, and what holds for all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from moecompress.runtime import _native
from moecompress.testing import check_policy
from moecompress.testing.cache_reference import POLICIES, replay
from moecompress.testing.policy_checks import random_routing

SHAPES = [([8] * 4, 2), ([6, 3, 9], 3), ([5], 1), ([4, 4], 2), ([16] * 3, 4)]


def test_every_policy_is_found_and_belady_is_none_of_them():
    assert _native.policy_names() == sorted(POLICIES.keys() - {"belady"})


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("experts", "top_k"), SHAPES)
def test_every_eviction_is_that_of_the_plain_form(policy, experts, top_k):
    for seed in range(3):
        chosen = random_routing(experts, top_k, tokens=120, seed=seed)
        for slots in sorted({top_k, top_k + 1, top_k * len(experts), sum(experts) // 2 + 1, sum(experts)}):
            if slots < top_k:
                continue
            missed, given_up = _native.replay(chosen, experts, policy, slots)
            expected_missed, expected_given_up = replay(chosen, experts, policy, slots)
            assert missed.ravel().tolist() == expected_missed
            assert given_up.tolist() == expected_given_up


def test_a_scan_that_does_not_fit_never_hits_with_lru_but_does_with_the_others():
    experts, top_k = [8] * 6, 2
    chosen = random_routing(experts, top_k, tokens=400, seed=1)
    hits = {policy: 1 - _native.replay(chosen, experts, policy, 6)[0].mean() for policy in POLICIES}
    assert hits["lru"] == 0
    assert min(hits[policy] for policy in ("lfu", "edgemoe", "expected")) > 0.12


def fewest_misses(chosen, experts, slots):
    """By trying every possible eviction: an expert is (layer, number); the cache always holds the current layer's."""
    tokens, layers, _ = chosen.shape
    states = {frozenset(): 0}
    for token in range(tokens):
        for layer in range(layers):
            wanted = frozenset((layer, int(expert)) for expert in chosen[token, layer])
            following: dict[frozenset, int] = {}
            for cache, misses in states.items():
                cost = misses + len(wanted - cache)
                others = cache - wanted
                kept = min(len(others), slots - len(wanted))
                for rest in combinations(sorted(others), kept):
                    key = frozenset(rest) | wanted
                    following[key] = min(cost, following.get(key, cost))
            states = following
    return min(states.values())


@pytest.mark.parametrize(("experts", "top_k", "slots"), [([3, 3], 1, 2), ([3, 3], 1, 3), ([4, 3], 2, 4), ([5], 2, 3)])
def test_belady_misses_as_rarely_as_anything_can(experts, top_k, slots):
    for seed in range(4):
        chosen = random_routing(experts, top_k, tokens=14, seed=seed)
        missed, _ = _native.replay(chosen, experts, "belady", slots)
        assert missed.sum() == fewest_misses(chosen, experts, slots)


@pytest.mark.parametrize("policy", _native.policy_names())
def test_conformance(policy):
    check_policy(policy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": "newest"}, "Unknown cache policy 'newest'. Allowed: edgemoe, expected, lfu, lru"),
        ({"slots": 1}, "at least 2 slots, not 1"),
        ({"experts": [8, 8, 8]}, "3 layers, top-k"),
        ({"experts": [8, 8, 8, 5]}, "in layer 3, which has 5 experts"),
        ({"chosen": np.zeros((3, 4, 2), np.uint16)}, "chose expert 0 in layer 0 twice"),
    ],
)
def test_impossible_replays_are_refused(change, words):
    arguments = {"chosen": random_routing([8] * 4, 2, 40, 0), "experts": [8] * 4, "policy": "lru", "slots": 6}
    with pytest.raises(ValueError, match=words):
        _native.replay(**{**arguments, **change})
