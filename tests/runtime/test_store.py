"""The expert store through the engine: what is read, what is kept, how files are opened."""

from __future__ import annotations

import time
from collections import OrderedDict

import numpy as np
import pytest

from moecompress.core.errors import ArtifactError
from moecompress.runtime.engine import Engine

IDS = np.random.default_rng(1).integers(0, 299, 40).tolist()


def _lru_misses(trace: list[tuple[int, list[int]]], slots: int) -> int:
    """Misses of a least-recently-used cache that looks at all experts of a token's layer before it reads."""
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    misses = 0
    for layer, experts in trace:
        keys = [(layer, expert) for expert in experts]
        found = [key for key in keys if key in cache]
        for key in found:
            cache.move_to_end(key)
        for key in keys:
            if key not in cache:
                misses += 1
                if len(cache) == slots:
                    cache.pop(next(old for old in cache if old not in keys))
                cache[key] = None
    return misses


def _routing(model, ids: list[int]) -> list[tuple[int, list[int]]]:
    """(layer, experts by descending weight) of every token in the order a decoder visits them."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([ids]), output_router_logits=True).router_logits
    chosen = [layer.topk(2, dim=-1).indices.tolist() for layer in logits]
    return [(layer, chosen[layer][token]) for token in range(len(ids)) for layer in range(len(chosen))]


@pytest.mark.parametrize("slots", [2, 3, 5, 9, 14])
def test_misses_are_those_of_a_least_recently_used_cache(encoded, slots):
    artifact, model = encoded()
    with Engine.open(artifact, threads=1, slots=slots, chunk=1) as engine:
        engine.start(IDS)
        stats = engine.store_stats()
    trace = _routing(model, IDS)
    assert stats.decode_hits + stats.decode_misses == 2 * len(trace)
    assert stats.decode_misses == stats.reads == _lru_misses(trace, slots)


def test_resident_experts_are_read_once(artifact):
    with Engine.open(artifact, threads=1) as engine:
        record = engine.manifest.experts[0].experts[0].bytes
        engine.logits(IDS)
        while engine.store_stats().bytes_read < 16 * record:
            time.sleep(0.001)
        first = engine.store_stats()
        engine.logits(IDS)
        again = engine.store_stats()
    looked_up = first.prefill_hits + first.prefill_misses
    assert first.reads == 16 and first.bytes_read == 16 * record
    assert again.reads == 16 and again.bytes_read == 16 * record
    assert again.prefill_hits == first.prefill_hits + looked_up and again.prefill_misses == first.prefill_misses


def test_a_long_prompt_reads_each_expert_once_per_chunk(artifact):
    with Engine.open(artifact, threads=1, slots=2, chunk=20) as engine:
        engine.start(IDS)
        stats = engine.store_stats()
    assert stats.reads == stats.prefill_misses <= 2 * 16
    assert stats.prefill_hits + stats.prefill_misses <= 2 * 16


def test_reading_past_the_page_cache_can_be_insisted_on_or_avoided(artifact):
    outputs = {}
    for io in ("direct", "buffered", "automatic"):
        try:
            with Engine.open(artifact, threads=1, slots=2, io=io) as engine:
                outputs[io] = engine.logits(IDS).tobytes()
                assert engine.store_stats().direct == (io == "direct" or (io == "automatic" and "direct" in outputs))
        except ArtifactError as error:
            assert io == "direct" and "does not support direct reads" in str(error)
    assert len(set(outputs.values())) == 1 and len(outputs) >= 2


def test_a_long_prompt_does_not_sweep_the_cache(encoded):
    """Each chunk wants nearly all 48 experts. A sweep would leave nothing of 24 slots to the next chunk."""
    artifact, _ = encoded("qwen3_moe", num_hidden_layers=6)
    ids = np.random.default_rng(2).integers(0, 299, 100).tolist()
    slots, chunks, window = 24, 5, 9  # the expert computed and eight that are read ahead
    with Engine.open(artifact, threads=1, slots=slots, chunk=20) as engine:
        engine.start(ids)
        stats = engine.store_stats()
    wanted = stats.prefill_hits + stats.prefill_misses
    assert wanted > 0.9 * chunks * 48
    kept = slots - window
    assert stats.prefill_misses <= wanted - (chunks - 1) * (kept - 2)
