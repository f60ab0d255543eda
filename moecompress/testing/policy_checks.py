"""What every cache policy promises, as checks that run through replay, so through the store's own bookkeeping.

check_policy("expected")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moecompress.runtime import _native

Choices = npt.NDArray[np.uint16]
_EXPERTS, _TOP_K = [8, 8, 5, 8], 2


def random_routing(experts: Sequence[int], top_k: int, tokens: int, seed: int) -> Choices:
    """Choices [tokens, layers, top_k]: some experts are liked better, and what was chosen is likely to come again."""
    generator = np.random.default_rng(seed)
    chosen = np.zeros((tokens, len(experts), top_k), np.uint16)
    for layer, count in enumerate(experts):
        liking = generator.gumbel(size=count)
        mood = generator.gumbel(size=(tokens, count))
        for token in range(1, tokens):
            mood[token] = np.where(generator.random(count) < 0.7, mood[token - 1], mood[token])
        chosen[:, layer] = np.argsort(-(liking + mood), axis=1, kind="stable")[:, :top_k]
    return chosen


def check_policy(policy: str, seed: int = 0) -> None:
    """Run every check on random routing: of a cache of every size from one layer's experts to all of them."""
    chosen = random_routing(_EXPERTS, _TOP_K, tokens=80, seed=seed)
    for slots in range(_TOP_K, sum(_EXPERTS) + 1):
        missed, given_up = _native.replay(chosen, _EXPERTS, policy, slots)
        _check_contents(chosen, missed, given_up, slots)
        best, _ = _native.replay(chosen, _EXPERTS, "belady", slots)
        assert missed.sum() >= best.sum(), f"{policy} beats the optimum with {slots} slots"
        again, given_up_again = _native.replay(chosen, _EXPERTS, policy, slots)
        assert np.array_equal(again, missed) and np.array_equal(given_up_again, given_up)


def _check_contents(
    chosen: Choices, missed: npt.NDArray[np.uint8], given_up: npt.NDArray[np.int32], slots: int
) -> None:
    """Follow what is cached: misses are misses, only what is there goes, and nothing that the layer at work wants."""
    first = np.concatenate([[0], np.cumsum(_EXPERTS)])
    cached: set[int] = set()
    gone = iter(given_up.tolist())
    for choice, miss in zip(chosen, missed, strict=True):
        for layer in range(len(_EXPERTS)):
            wanted = (first[layer] + choice[layer]).tolist()
            assert [expert not in cached for expert in wanted] == miss[layer].astype(bool).tolist()
            for expert in (expert for expert in wanted if expert not in cached):
                victim = next(gone)
                assert victim == -1 if len(cached) < slots else victim in cached and victim not in wanted
                cached.discard(victim)
                cached.add(expert)
            assert len(cached) <= slots
    assert next(gone, None) is None
