"""Experts read ahead: what is counted adds up, nothing changes a bit, and no memory is taken from who needs it."""

from __future__ import annotations

import numpy as np
import pytest

from moecompress.core.errors import ArtifactError, UsageError
from moecompress.runtime.engine import Engine

IDS = np.random.default_rng(4).integers(0, 299, 60).tolist()
LAYERS, TOP_K = 6, 2


@pytest.fixture(scope="module")
def deep(encoded):
    return encoded("qwen3_moe", num_hidden_layers=LAYERS)[0]


def _decode(artifact, **options):
    """Logits after every token, one by one, and what the store counted."""
    with Engine.open(artifact, threads=1, chunk=1, **options) as engine:
        logits = engine.logits(IDS)
        return logits.tobytes(), engine.store_stats()


@pytest.mark.parametrize("policy", ["lru", "expected"])
@pytest.mark.parametrize("slots", [2, 8, 20, 40])
def test_lookups_and_reads_add_up_and_logits_keep_their_bits(deep, slots, policy):
    expected, plain = _decode(deep, slots=slots, policy=policy)
    logits, stats = _decode(deep, slots=slots, policy=policy, speculation="on")
    assert logits == expected
    assert plain.decode_lookups == stats.decode_lookups == len(IDS) * LAYERS * TOP_K
    assert plain.speculative_reads == plain.decode_speculative_hits == plain.wasted_reads == 0
    assert stats.reads == stats.decode_misses
    unused = stats.speculative_reads - stats.decode_speculative_hits - stats.wasted_reads
    assert 0 <= unused <= slots
    assert stats.failed_speculative_reads == 0


def test_guesses_by_the_next_router_come_true(deep):
    _, stats = _decode(deep, slots=20, speculation="on", predictor="router")
    assert stats.speculative_reads > 0
    assert stats.decode_speculative_hits > 0
    assert stats.speculative_hit_rate == stats.decode_speculative_hits / stats.decode_lookups


def test_every_byte_is_counted_once(deep):
    with Engine.open(deep, threads=1, chunk=1, slots=20, speculation="on") as engine:
        record = engine.manifest.experts[0].experts[0].bytes
        engine.logits(IDS)
        stats = engine.store_stats()
    begun = stats.reads + stats.speculative_reads
    assert (begun - stats.wasted_reads) * record <= stats.bytes_read + 8 * record
    assert stats.bytes_read <= begun * record
    assert stats.wasted_bytes <= stats.wasted_reads * record


def test_with_two_slots_nothing_is_read_ahead(deep):
    assert _decode(deep, slots=2, speculation="on")[1].speculative_reads == 0


def test_without_a_cache_to_manage_the_choice_has_no_effect(deep):
    assert _decode(deep)[0] == _decode(deep, speculation="on")[0]


def test_unknown_choices_and_missing_priors_are_refused(deep):
    with pytest.raises(UsageError, match="speculation = 'maybe'"):
        Engine.open(deep, slots=8, speculation="maybe")
    with pytest.raises(UsageError, match="predictor = 'oracle'"):
        Engine.open(deep, slots=8, predictor="oracle")
    with pytest.raises(ArtifactError, match="priors"):
        Engine.open(deep, slots=8, speculation="on", predictor="popularity")
