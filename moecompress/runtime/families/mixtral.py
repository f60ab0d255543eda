"""Mixtral: softmax over all experts, the chosen ones renormalised; optional sliding window; no biases."""

from __future__ import annotations

from moecompress.runtime.families._config import Config
from moecompress.runtime.families._decoder import layer_count, layers, rope, sizes
from moecompress.runtime.families.base import Architecture, Family


def architecture(config: Config) -> Architecture:
    """The flags of a Mixtral model."""
    config.only("hidden_act", "silu", default="silu")
    config.only("attention_bias", False, default=False)
    return Architecture(
        sizes=sizes(config, key_value_heads=8),
        norm_epsilon=config.number("rms_norm_eps", default=1e-5),
        rope=rope(config, theta=1e6),
        top_k=config.integer("num_experts_per_tok", default=2),
        renormalise=True,
        layers=layers([True] * layer_count(config), config.integer("sliding_window", default=0)),
        tied=config.flag("tie_word_embeddings", default=False),
    )


FAMILY = Family(architecture, router_names=("block_sparse_moe.gate.weight", "mlp.gate.weight"))
