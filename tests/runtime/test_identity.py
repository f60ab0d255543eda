"""The same bits whatever the cache, the threads, the chunk, the kernels and the way of reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moecompress.runtime import _native
from moecompress.runtime.engine import Engine
from moecompress.testing.native import Bits

# Wide enough that the work is split over threads.
WIDE = {"hidden_size": 256, "num_attention_heads": 4}
VARIANTS: list[dict[str, Any]] = [
    {"slots": 2},
    {"slots": 3, "threads": 2},
    {"slots": 5, "threads": 3, "chunk": 7, "lanes": 1},
    {"slots": 9, "io": "buffered"},
    {"slots": 4, "overlap": False},
    {"slots": 8, "speculation": "on", "predictor": "router"},
    {"slots": 5, "speculation": "auto", "threads": 2, "overlap": False},
    {"chunk": 1},
    {"chunk": 64, "threads": 2},
    *[{"isa": name} for name in _native.isa_names()],
]


def _outputs(artifact: Any, ids: list[int], **options: Any) -> tuple[bytes, tuple[int, ...]]:
    with Engine.open(artifact, **{"threads": 1, "chunk": 32, **options}) as engine:
        generation = engine.generate(ids[:11], max_tokens=12, temperature=0.9, top_p=0.95, seed=5)
        tokens = generation.run().token_ids
        return engine.logits(ids).tobytes(), tokens


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("mixtral", {}),
        ("mixtral", {"sliding_window": 40}),
        ("qwen2_moe", {}),
        ("qwen3_moe", {"head_dim": 64}),
        ("olmoe", {}),
    ],
)
def test_logits_and_samples_have_the_same_bits_however_they_are_computed(encoded, family, overrides):
    artifact, _ = encoded(family, Bits(3, 8), **{**WIDE, **overrides})
    ids = np.random.default_rng(7).integers(0, 299, 100).tolist()
    expected = _outputs(artifact, ids)
    for options in VARIANTS:
        assert _outputs(artifact, ids, **options) == expected, options


def test_a_continued_text_has_the_bits_of_a_fresh_one(artifact):
    ids = np.random.default_rng(8).integers(0, 299, 60).tolist()
    with Engine.open(artifact, threads=1) as engine:
        fresh = engine.generate(ids, max_tokens=6).run()
    with Engine.open(artifact, threads=1) as engine:
        engine.generate([*ids[:40], 1, 2, 3], max_tokens=5).run()
        continued = engine.generate(ids, max_tokens=6).run()
    assert continued.reused_tokens == 40
    assert continued.token_ids == fresh.token_ids
