"""Streaming costs against a simulated cache, prices against differences, and what weighing them does."""

import numpy as np
import pytest

from moecompress.passes.allocate._streaming import byte_prices, bytes_per_token, residence_time

POPULARITY = np.array([0.9, 0.6, 0.3, 0.1, 0.05, 0.02, 0.0, 0.03])
SIZE = np.array([100, 120, 90, 110, 100, 80, 100, 130])


def simulated(size, popularity, capacity, tokens=6000):
    """Bytes per token of an LRU cache of bytes when experts are drawn independently at every token."""
    draws = np.random.default_rng(0).random((tokens, len(size))) < popularity
    order, resident, read = [], 0, 0
    for row in draws:
        for expert in np.flatnonzero(row):
            if expert in order:
                order.remove(expert)
            else:
                read += size[expert]
                resident += size[expert]
            order.append(expert)
            while resident > capacity:
                resident -= size[order.pop(0)]
    return read / tokens


@pytest.mark.parametrize("capacity", [2000, 3000, 4000])
def test_expected_reads_are_those_of_a_simulated_cache(capacity):
    """Che's approximation takes the cache as full; a real one is short of it by half a record on average."""
    drawn = np.random.default_rng(0)
    size, popularity = drawn.integers(50, 150, 64), np.clip(drawn.pareto(1.0, 64) * 0.03, 0, 0.95)
    expected = bytes_per_token(size, popularity, capacity)
    assert expected == pytest.approx(simulated(size, popularity, capacity), rel=0.25)


def test_reads_end_when_everything_in_use_fits():
    assert residence_time(SIZE, POPULARITY, 800) == np.inf
    assert bytes_per_token(SIZE, POPULARITY, 800) == 0
    assert bytes_per_token(SIZE, POPULARITY, 0) == pytest.approx(float((SIZE * POPULARITY).sum()))
    reads = [bytes_per_token(SIZE, POPULARITY, capacity) for capacity in range(0, 731, 73)]
    assert reads == sorted(reads, reverse=True)


@pytest.mark.parametrize("capacity", [250, 400, 600])
def test_prices_are_the_derivatives_of_reads(capacity):
    prices = byte_prices(SIZE, POPULARITY, capacity)
    for expert in range(len(SIZE)):
        step = np.zeros(len(SIZE))
        step[expert] = 1e-3
        more, less = (bytes_per_token(SIZE + sign * step, POPULARITY, capacity) for sign in (1, -1))
        assert prices[expert] == pytest.approx((more - less) / 2e-3, rel=1e-3, abs=1e-6)


def test_weighing_streams_fewer_bytes_for_more_divergence(toy):
    drawn = np.random.default_rng(0)
    counts = np.clip(np.round(np.sort(drawn.pareto(1.2, 24))[::-1] * 3), 1, 95).astype(int).tolist()
    sensitivity = drawn.lognormal(0, 1, (2, 24))

    def error(layer, expert, projection, bits):
        return sensitivity[layer][expert] * counts[expert] * 4.0**-bits

    options = {"experts": 24, "error": error, "average": 2.5, "memory": "50%", "counts": [counts] * 2}
    made = [toy("edge", weight=weight, **options).choose() for weight in (0, 1.0, 4.0)]
    reads, losses = [found.details["bytes_per_token"] for found in made], [found.predicted for found in made]
    assert reads[0] > reads[1] > reads[2] and losses[0] < losses[1] < losses[2]
    assert made[1].details["unweighted"] == {"predicted": losses[0], "bytes_per_token": reads[0]}
    objective = [loss / losses[0] + read / reads[0] for loss, read in zip(losses, reads, strict=True)]
    assert objective[1] == min(objective), "each weight's allocation is the best of the three at that weight"


def test_memory_for_all_makes_weight_idle(toy, falling):
    error = falling(lambda layer, expert: expert + 1)
    made = [
        toy("edge", average=2.5, memory=memory, weight=weight, error=error).bits()
        for memory, weight in (("100%", 5.0), ("50%", 0.0))
    ]
    assert made[0] == made[1]


def test_memory_is_bytes_or_a_share(toy):
    assert toy("edge", average=2.5, memory="1MiB").choose().details["cache_bytes"] == 1 << 20
    assert toy("edge", average=2.5, memory="25%").options.memory == 0.25
    assert toy("edge", average=2.5, memory=4096).options.memory == 4096
