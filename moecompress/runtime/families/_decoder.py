"""What all four families share: the sizes of attention, which layers are sparse, and rotary embedding.

Whatever decides how long a list becomes is bounded here as the core bounds it: config.json is not to be trusted.
"""

from __future__ import annotations

import math
from typing import Any

from moecompress.core.errors import UnsupportedModelError
from moecompress.runtime.families._config import Config
from moecompress.runtime.families.base import Layer, Rope, Sizes

_MOST_LAYERS, _LARGEST_HEAD = 65536, 4096


def sizes(config: Config, key_value_heads: int | None = None) -> Sizes:
    """The sizes; `key_value_heads` counts when the file does not name them, `null` there means as many as heads."""
    heads, hidden = config.integer("num_attention_heads", least=1), config.integer("hidden_size", least=1)
    unnamed = heads if config.has("num_key_value_heads") else key_value_heads or heads
    return Sizes(
        hidden=hidden,
        vocabulary=config.integer("vocab_size"),
        heads=heads,
        key_value_heads=config.integer("num_key_value_heads", default=unnamed),
        head_size=config.integer("head_dim", default=hidden // heads, least=1, most=_LARGEST_HEAD),
        max_positions=config.integer("max_position_embeddings"),
    )


def sparse_layers(config: Config) -> list[bool]:
    """Which layers have experts, by `decoder_sparse_step` and `mlp_only_layers`, as the Qwen families say it."""
    step, dense = config.integer("decoder_sparse_step", default=1, least=1), set(config.integers("mlp_only_layers"))
    return [index not in dense and (index + 1) % step == 0 for index in range(layer_count(config))]


def layer_count(config: Config) -> int:
    """How many decoder layers there are."""
    return config.integer("num_hidden_layers", least=1, most=_MOST_LAYERS)


def layers(sparse: list[bool], window: int = 0) -> tuple[Layer, ...]:
    """Layers whose attention all looks back `window` positions (0: over everything)."""
    return tuple(Layer(sparse=flag, window=window) for flag in sparse)


def rope(config: Config, theta: float = 10000.0) -> Rope:
    """Rotary embedding of type default, linear or llama3; `theta` is the family's default base.

    transformers 5 writes `rope_parameters`; older files have `rope_theta` and `rope_scaling`.
    """
    parameters = config.raw("rope_parameters", "rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise UnsupportedModelError(f"The rope_parameters of this {config.model_type} model are not a mapping.")
    values = Config(f"{config.model_type} (rope_parameters)", parameters)
    kind = values.raw("rope_type", "type") or "default"
    if not isinstance(kind, str) or kind not in _SCALINGS:
        raise UnsupportedModelError(
            f"This {config.model_type} model has rope_type = {str(kind)[:100]!r}; "
            f"the native engine handles {', '.join(_SCALINGS)}."
        )
    for place in (config, values):
        place.only("partial_rotary_factor", 1.0, default=1.0)
    base = values.number("rope_theta", default=config.number("rope_theta", default=theta))
    head_size = sizes(config).head_size
    plain = [1.0 / base ** (index / head_size) for index in range(0, head_size, 2)]
    positions = config.integer("max_position_embeddings")
    return Rope(tuple(_SCALINGS[kind](frequency, values, positions) for frequency in plain))


def _default(frequency: float, values: Config, positions: int) -> float:
    return frequency


def _linear(frequency: float, values: Config, positions: int) -> float:
    return frequency / values.number("factor")


def _llama3(frequency: float, values: Config, positions: int) -> float:
    """Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    original = values.integer("original_max_position_embeddings", default=positions)
    low, high, factor = values.number("low_freq_factor"), values.number("high_freq_factor"), values.number("factor")
    if not low < high:
        raise UnsupportedModelError(
            f"This {values.model_type} model has low_freq_factor = {low}; it must be below high_freq_factor = {high}."
        )
    turns = original * frequency / (2 * math.pi)  # of the wave within the original context
    if turns < low:
        return frequency / factor
    if turns > high:
        return frequency
    smooth = (turns - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


_SCALINGS: dict[str, Any] = {"default": _default, "linear": _linear, "llama3": _llama3}
