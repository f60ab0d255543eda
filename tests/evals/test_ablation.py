"""EdgeMoE's chain: what its steps ask of the engine, and the figures made from runs."""

from __future__ import annotations

import ablation
from synthetic.shapes import PRESETS

SHAPE = PRESETS["olmoe-1.8b"]


def test_steps_differ_by_one_idea_each():
    bf16, quantized, overlap, cache = ablation.steps(SHAPE)
    assert (bf16.bits, quantized.bits) == (16, 4)
    assert bf16.options(SHAPE) == quantized.options(SHAPE)
    assert bf16.options(SHAPE) == {"slots": 8, "overlap": False, "speculation": "off", "policy": "lru"}
    assert overlap.options(SHAPE)["overlap"] and overlap.options(SHAPE)["policy"] == "lru"
    assert cache.options(SHAPE)["slots"] == 1.5 * SHAPE.layers * SHAPE.top_k


def test_rows_are_medians_and_factors_to_the_step_before():
    found = ablation.steps(SHAPE)[:2]
    runs = {
        "bf16": [{"tps": tps, "disk_bytes_per_token": 400.0, "hit_rate": 0.0} for tps in (1.0, 2.0, 9.0)],
        "quantized": [{"tps": tps, "disk_bytes_per_token": 110.0, "hit_rate": 0.0} for tps in (6.0, 5.0, 7.0)],
    }
    rows = ablation.summary(found, runs, SHAPE)
    assert [row["tps"] for row in rows] == [2.0, 6.0]
    assert [row["factor"] for row in rows] == [1.0, 3.0]
    assert rows[1]["disk_bytes_per_token"] == 110.0
