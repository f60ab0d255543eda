"""The engine against transformers, on the very weights the artifact stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moecompress.core.registry import members
from moecompress.runtime.engine import Engine
from moecompress.testing.native import Bits, reference_logits, reference_tokens

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e3,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
DENSE, BF16 = Bits(), Bits(experts=16, trunk=16, embedding=16)
CASES: list[tuple[str, Bits, dict[str, Any]]] = [
    ("mixtral", DENSE, {}),
    ("mixtral", Bits(4, 8), {"sliding_window": 16}),
    ("mixtral", Bits(5, 8, 8), {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    ("qwen2_moe", DENSE, {}),
    ("qwen2_moe", Bits(6, 8), {"num_hidden_layers": 3, "mlp_only_layers": [1], "norm_topk_prob": True}),
    ("qwen2_moe", BF16, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    ("qwen2_moe", Bits(4, 8), {"qkv_bias": False, "num_experts_per_tok": 4}),
    ("qwen3_moe", DENSE, {}),
    ("qwen3_moe", Bits(3, 8, 8, group=64), {"num_key_value_heads": 1}),
    ("qwen3_moe", Bits(2, 4), {"attention_bias": True, "norm_topk_prob": False, "decoder_sparse_step": 2}),
    ("olmoe", DENSE, {}),
    ("olmoe", Bits(8, 8), {"clip_qkv": 0.7}),
    ("olmoe", Bits(4, 8), {"norm_topk_prob": True, "attention_bias": True, "rope_parameters": LINEAR}),
    # Sizes that are no multiple of a tile or block.
    ("qwen3_moe", Bits(3, 5), {"hidden_size": 72, "moe_intermediate_size": 40, "head_dim": 20, "vocab_size": 301}),
]


@pytest.mark.parametrize(("family", "bits", "overrides"), CASES)
def test_logits_and_greedy_text_are_those_of_transformers(encoded, family, bits, overrides):
    artifact, model = encoded(family, bits, **overrides)
    ids = np.random.default_rng(3).integers(0, 299, 120).tolist()
    expected = reference_logits(model, ids)
    with Engine.open(artifact, threads=2) as engine:
        logits = engine.logits(ids)
        result = engine.generate(ids[:30], max_tokens=16).run()
    assert expected.std() > 1  # the comparison means something
    assert np.abs(logits - expected).max() <= 2e-2
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.995
    assert list(result.token_ids) == reference_tokens(model, ids[:30], 16)[: len(result.token_ids)]


def test_every_family_of_the_engine_is_compared():
    assert {family for family, _, _ in CASES} == set(members("moecompress.runtime.families", "FAMILY"))
