"""Qwen2-MoE: biases on queries, keys and values, and a shared expert scaled by the sigmoid of its own router."""

from __future__ import annotations

from typing import Any

from moecompress.core.errors import UnsupportedModelError
from moecompress.runtime.families._config import Config
from moecompress.runtime.families._decoder import rope, sizes, sparse_layers
from moecompress.runtime.families.base import Architecture, Family, Layer

_FULL, _SLIDING = "full_attention", "sliding_attention"


def architecture(config: Config) -> Architecture:
    """The flags of a Qwen2-MoE model."""
    config.only("hidden_act", "silu", default="silu")
    return Architecture(
        sizes=sizes(config, key_value_heads=16),
        norm_epsilon=config.number("rms_norm_eps", default=1e-6),
        rope=rope(config),
        top_k=config.integer("num_experts_per_tok", default=4),
        renormalise=config.flag("norm_topk_prob", default=False),
        layers=_layers(config),
        tied=config.flag("tie_word_embeddings", default=False),
        attention_bias=config.flag("qkv_bias", default=True),
        shared_expert=True,
    )


def _layers(config: Config) -> tuple[Layer, ...]:
    sparse, window = sparse_layers(config), _window(config)
    kinds = config.raw("layer_types") or _default_kinds(config, len(sparse))
    if not isinstance(kinds, list) or len(kinds) != len(sparse) or any(kind not in (_FULL, _SLIDING) for kind in kinds):
        raise UnsupportedModelError(
            f"This {config.model_type} model has layer_types = {str(kinds)[:100]}; the native engine handles a list "
            f"with {_FULL} or {_SLIDING} for each of its {len(sparse)} layers."
        )
    return tuple(Layer(flag, window if kind == _SLIDING else 0) for flag, kind in zip(sparse, kinds, strict=True))


def _window(config: Config) -> int:
    sliding = config.flag("use_sliding_window", default=False)
    return config.integer("sliding_window", default=4096) if sliding else 0


def _default_kinds(config: Config, count: int) -> list[Any]:
    """transformers slides in every second layer, from the first, below max_window_layers."""
    last = config.integer("max_window_layers", default=28) if _window(config) else 0
    return [_SLIDING if (index + 1) % 2 and index < last else _FULL for index in range(count)]


FAMILY = Family(architecture)
