"""MoPEQ (arXiv 2509.02512): experts are clustered by sensitivity, and each cluster gets one of the choices.

1-D k-means of the logarithm of the score makes as many clusters as there are choices, in the model as a whole or in
each layer; the most sensitive cluster gets the largest choice. The published method has no budget: boundaries are then
moved one expert at a time, the expert nearest to the other cluster first, until the budget is met and as much of it is
used as one can. Scores: `trace`, the exact Hessian trace of the layer-wise loss times the rounding error of the
smallest choice; `kurtosis` of the weights and `heavy_tail` (the smaller the spectrum's exponent, the more sensitive),
which need no data; `frequency`, the tokens routed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from moecompress.core.errors import OptionError
from moecompress.passes.allocate.base import Allocation, Allocator, Candidates, Findings, Floats, Integers, Probe
from moecompress.passes.allocate.frequency import usage_of
from moecompress.passes.allocate.options import AllocationOptions, Choice
from moecompress.passes.sensitivity import shape, trace, usage


class Mopeq(AllocationOptions):
    """Options of `mopeq`."""

    allocate: Literal["mopeq"] = Field("mopeq", description="the allocator's name")
    choices: tuple[Choice, ...] = Field((2, 3, 4), min_length=1, description="bit widths to choose from")
    score: Literal["trace", "kurtosis", "heavy_tail", "frequency"] = Field("trace", description="what is clustered")
    scope: Literal["model", "layer"] = Field("model", description="clusters of the whole model, or of each layer")


def probes(candidates: Candidates, options: Mopeq) -> Mapping[int, Sequence[Probe]]:
    """The score of every expert."""
    return {layer: (_probe(candidates, options),) for layer in candidates.layers}


def _probe(candidates: Candidates, options: Mopeq) -> Probe:
    if options.score == "trace":
        return trace.probe(candidates.levels[0])
    return usage.PROBE if options.score == "frequency" else shape.PROBE


def scores(candidates: Candidates, options: Mopeq, findings: Findings) -> Floats:
    """How sensitive each expert is, `[U]`, on a logarithmic scale."""
    if options.score == "frequency":
        return np.asarray(np.log(usage_of(candidates, findings, "count") + 1e-12))
    values = []
    for layer in candidates.layers:
        found = findings.of(layer, _probe(candidates, options))
        if options.score != "trace":
            found = found["kurtosis" if options.score == "kurtosis" else "alpha"]
        values.append(np.sum([found[projection] for projection in found], axis=0))
    logs: Floats = np.log(np.maximum(np.concatenate(values), 1e-300))
    return -logs if options.score == "heavy_tail" else logs


def choose(candidates: Candidates, options: Mopeq, findings: Findings) -> Allocation:
    """Clusters, then boundaries moved to the budget."""
    score = scores(candidates, options, findings)
    choice = np.zeros(candidates.shape[0], np.int64)
    clusters = np.zeros(candidates.shape[0], np.int64)
    scopes = (
        [np.arange(len(choice))] if options.scope == "model" else [candidates.of(layer) for layer in candidates.layers]
    )
    for own in scopes:
        limit = candidates.limit if options.scope == "model" else candidates.layer_limit(int(candidates.layer[own[0]]))
        clusters[own] = k_means(score[own], candidates.shape[1])
        choice[own] = shifted(score[own], clusters[own], candidates.cost[own], limit)
    return Allocation(choice, details={"clusters": np.bincount(clusters, minlength=candidates.shape[1]).tolist()})


def k_means(values: Floats, count: int) -> Integers:
    """Cluster 0..count-1 of each value, by rising value: the exact optimum of 1-D k-means, by dynamic programming."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    size, count = len(values), min(count, len(values))
    sums, squares = (np.concatenate(([0.0], np.cumsum(part))) for part in (ordered, ordered**2))

    def spread(first: int, last: int) -> float:
        total = sums[last] - sums[first]
        return float(squares[last] - squares[first] - total**2 / (last - first))

    best = np.full((count + 1, size + 1), np.inf)
    cut = np.zeros((count + 1, size + 1), np.int64)
    best[0, 0] = 0.0
    for cluster in range(1, count + 1):
        for last in range(cluster, size + 1):
            options = [best[cluster - 1, first] + spread(first, last) for first in range(cluster - 1, last)]
            cut[cluster, last] = cluster - 1 + int(np.argmin(options))
            best[cluster, last] = options[int(np.argmin(options))]
    labels, last = np.zeros(size, np.int64), size
    for cluster in range(count, 0, -1):
        first = int(cut[cluster, last])
        labels[order[first:last]] = cluster - 1
        last = first
    return labels


def shifted(score: Floats, clusters: Integers, cost: Integers, limit: int | None) -> Integers:
    """Clusters whose boundaries are moved until the cost is within the limit and no further expert can be raised.

    Raises OptionError when even one cluster of the smallest choice exceeds it.
    """
    clusters, rows = clusters.copy(), np.arange(len(clusters))
    order = np.argsort(score, kind="stable")
    if limit is None:
        return clusters
    while int(cost[rows, clusters].sum()) > limit:
        lowest = [
            order[clusters[order] == cluster][0] for cluster in range(1, cost.shape[1]) if (clusters == cluster).any()
        ]
        if not lowest:
            raise OptionError("even the smallest choice everywhere exceeds the layer's share of the budget", ("bits",))
        clusters[min(lowest, key=lambda expert: _distance(score, clusters, expert, -1))] -= 1
    while True:
        highest = [
            order[clusters[order] == cluster][-1] for cluster in range(cost.shape[1] - 1) if (clusters == cluster).any()
        ]
        spent = int(cost[rows, clusters].sum())
        fits = [e for e in highest if spent + cost[e, clusters[e] + 1] - cost[e, clusters[e]] <= limit]
        if not fits:
            return clusters
        clusters[min(fits, key=lambda expert: _distance(score, clusters, expert, 1))] += 1


def _distance(score: Floats, clusters: Integers, expert: Any, step: int) -> tuple[float, int]:
    """How far an expert at a boundary is from the mean of the cluster it would join; an empty one is the farthest."""
    others = score[clusters == clusters[expert] + step]
    return (abs(float(score[expert]) - float(others.mean())) if len(others) else np.inf, int(expert))


def needs(options: Mopeq, method: Mapping[str, Any]) -> frozenset[str]:
    """The statistics behind the probes."""
    return {"trace": trace.NEEDS, "frequency": usage.NEEDS}.get(options.score, frozenset())


ALLOCATOR = Allocator(options=Mopeq, choose=choose, probes=probes, needs=needs)
