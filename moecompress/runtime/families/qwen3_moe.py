"""Qwen3-MoE: queries and keys normalised head by head; no shared expert."""

from __future__ import annotations

from moecompress.runtime.families._config import Config
from moecompress.runtime.families._decoder import layers, rope, sizes, sparse_layers
from moecompress.runtime.families.base import Architecture, Family


def architecture(config: Config) -> Architecture:
    """The flags of a Qwen3-MoE model."""
    config.only("hidden_act", "silu", default="silu")
    bias = config.flag("attention_bias", default=False)
    sliding = config.flag("use_sliding_window", default=False)
    return Architecture(
        sizes=sizes(config, key_value_heads=4),
        norm_epsilon=config.number("rms_norm_eps", default=1e-6),
        rope=rope(config),
        top_k=config.integer("num_experts_per_tok", default=8),
        renormalise=config.flag("norm_topk_prob", default=False),
        layers=layers(sparse_layers(config), config.integer("sliding_window", default=4096) if sliding else 0),
        tied=config.flag("tie_word_embeddings", default=False),
        head_norm="per_head",
        attention_bias=bias,
        output_bias=bias,
    )


FAMILY = Family(architecture)
