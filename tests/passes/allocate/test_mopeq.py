"""MoPEQ: exact 1-D clusters, and boundaries that move to the budget."""

import itertools

import numpy as np
import pytest

from moecompress.core.errors import OptionError
from moecompress.passes.allocate.mopeq import k_means, shifted


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_the_optimum_of_k_means(seed):
    values = np.random.default_rng(seed).normal(size=7)

    def spread(labels):
        return sum(((values[labels == c] - values[labels == c].mean()) ** 2).sum() for c in set(labels))

    best = min(spread(np.array(labels)) for labels in itertools.product(range(3), repeat=7) if len(set(labels)) == 3)
    found = k_means(values, 3)
    assert spread(found) == pytest.approx(best)
    assert (np.diff(found[np.argsort(values)]) >= 0).all(), "the higher cluster holds the higher values"


def test_fewer_values_than_clusters_are_clusters_of_their_own():
    assert k_means(np.array([2.0, 1.0]), 3).tolist() == [1, 0]


def test_the_most_sensitive_experts_get_the_most_bits(toy):
    scores = [[1, 1.1, 30, 1000], [0.9, 35, 900, 1.2]]
    made = toy("mopeq", average=3, scores=lambda layer, expert: scores[layer][expert])
    assert made.bits() == [[2, 2, 4, 4], [2, 4, 4, 2]] or np.mean(made.bits()) == 3
    order = np.argsort(np.ravel(scores))
    assert (np.diff(np.ravel(made.bits())[order]) >= 0).all()
    assert made.choose().details["clusters"] == [4, 2, 2]


def test_boundaries_move_one_expert_at_a_time_to_the_budget():
    score, cost = np.array([1.0, 2, 3, 10, 11, 30]), np.tile([2, 3, 4], (6, 1))
    clusters = np.array([0, 0, 0, 1, 1, 2])
    assert shifted(score, clusters, cost, 16).tolist() == [0, 0, 0, 1, 1, 2]
    assert shifted(score, clusters, cost, 15).tolist() == [0, 0, 0, 0, 1, 2], "10 is nearest to the cluster below"
    assert sum(shifted(score, clusters, cost, 20)) == 8
    assert shifted(score, clusters, cost, 24).tolist() == [2] * 6
    with pytest.raises(OptionError, match="smallest choice everywhere"):
        shifted(score, clusters, cost, 11)


@pytest.mark.parametrize(("score", "sign"), [("kurtosis", 1), ("heavy_tail", -1)])
def test_scores_of_the_weights_alone_need_no_statistics(score, sign, toy):
    made = toy("mopeq", average=3, score=score, scores=lambda layer, expert: 3.0 + expert)
    assert made.allocator.needs(made.options, {}) == frozenset()
    for row in made.bits():
        assert (sign * np.diff(row) >= 0).all()


def test_layers_may_be_clustered_by_themselves(toy):
    made = toy("mopeq", average=3, scope="layer", scores=lambda layer, expert: 1000.0**layer * (expert + 1))
    assert np.mean(made.bits(), axis=1).tolist() == [3, 3]
