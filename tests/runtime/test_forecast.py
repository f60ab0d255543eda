"""The forecast of a budget: exact sizes, and estimates with the properties that they must have."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from moecompress.runtime.footprint import Footprint
from moecompress.runtime.forecast import Speeds, budgets, expected_hits, forecast
from moecompress.runtime.ledger import Demand, Needs

MIB = 1 << 20
FOOTPRINT = Footprint(
    trunk_bytes=20 * MIB,
    expert_bytes=8 * MIB,
    token_set=8,
    record_bytes=8 * MIB,
    experts=64,
    all_records_bytes=64 * MIB,
)
SPEEDS = Speeds(memory=10e9, disk=1e9)


def _demand() -> Demand:
    needs = Needs(20 * MIB, MIB, MIB, MIB, slot=MIB, all_experts=64 * MIB, experts=64)
    return Demand(lambda chunk: needs, top_k=4, context=512, threads=2, interpreter=30 * MIB)


def _popular() -> list[float]:
    return [1 / (1 + expert) for expert in range(64)]


def test_uniform_popularity_gives_hits_in_proportion_to_the_slots():
    for slots in (1, 16, 33, 63):
        assert expected_hits([0.1] * 64, slots) == pytest.approx(slots / 64, abs=1e-6)
    assert expected_hits([0.1] * 64, 64) == 1.0


def test_experts_that_are_never_used_take_no_slot():
    assert expected_hits([0.5, 0.5, 0.0, 0.0], 2) == 1.0


@pytest.mark.parametrize("slots", [8, 20, 40])
def test_the_hits_are_those_of_an_lru_cache_simulated_on_such_lookups(slots):
    generator, cache, hits = random.Random(1), OrderedDict(), 0
    lookups = generator.choices(range(64), weights=_popular(), k=30000)
    for expert in lookups:
        hits += expert in cache
        cache[expert] = None
        cache.move_to_end(expert)
        if len(cache) > slots:
            cache.popitem(last=False)
    assert expected_hits(_popular(), slots) == pytest.approx(hits / len(lookups), abs=0.02)


def test_more_memory_never_reads_more_and_the_resident_size_reads_nothing():
    demand = _demand()
    rows = [forecast(demand, FOOTPRINT, _popular(), SPEEDS, budget) for budget in budgets(demand, 0)]
    read = [row.bytes_per_token_estimate for row in rows]
    speed = [row.tokens_per_s_estimate for row in rows]
    assert read == sorted(read, reverse=True) and speed == sorted(speed)
    assert not rows[0].resident and rows[-1].resident and read[-1] == 0 and rows[-1].hit_rate_estimate == 1.0
    assert rows[0].slots == 8 and rows[0].token_sets == 1.0 and rows[-1].token_sets == 8.0
    assert speed[-1] == pytest.approx(0.75 * 10e9 / (28 * MIB))


def test_below_one_token_set_nothing_lasts_until_the_next_token():
    footprint = Footprint(20 * MIB, 8 * MIB, 16, 16 * MIB, 64, 64 * MIB)
    row = forecast(_demand(), footprint, [], SPEEDS, _demand().floor)
    assert row.hit_rate_estimate == 0.0 and row.bytes_per_token_estimate == 16 * MIB


def test_without_a_measured_disk_only_the_resident_speed_is_told():
    speeds = Speeds(memory=10e9, disk=None)
    assert forecast(_demand(), FOOTPRINT, [], speeds, _demand().floor).tokens_per_s_estimate is None
    assert forecast(_demand(), FOOTPRINT, [], speeds, _demand().resident).tokens_per_s_estimate > 0


def test_what_there_is_becomes_a_row_of_its_own():
    demand = _demand()
    between = demand.floor + 3 * MIB
    assert between in budgets(demand, between)
    assert budgets(demand, demand.resident + MIB)[-1] == demand.resident
