"""OLMoE: queries and keys normalised as whole vectors, optionally clipped; router weights kept as they are."""

from __future__ import annotations

from moecompress.runtime.families._config import Config
from moecompress.runtime.families._decoder import layer_count, layers, rope, sizes
from moecompress.runtime.families.base import Architecture, Family


def architecture(config: Config) -> Architecture:
    """The flags of an OLMoE model."""
    config.only("hidden_act", "silu", default="silu")
    config.only("sliding_window", None)
    bias = config.flag("attention_bias", default=False)
    return Architecture(
        sizes=sizes(config),
        norm_epsilon=config.number("rms_norm_eps", default=1e-5),
        rope=rope(config),
        top_k=config.integer("num_experts_per_tok", default=8),
        renormalise=config.flag("norm_topk_prob", default=False),
        layers=layers([True] * layer_count(config)),
        tied=config.flag("tie_word_embeddings", default=False),
        head_norm="full",
        clip=config.number("clip_qkv", default=float("inf")),
        attention_bias=bias,
        output_bias=bias,
    )


FAMILY = Family(architecture)
