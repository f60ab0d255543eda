"""What a family says to the runtime: the flags of the forward pass, and which checkpoint tensor plays which role.

A family file defines `FAMILY`, a `Family`; its name is the `model_type` of config.json. The flags are those of
`runtime/core/forward/config.h`, the roles those of `forward/trunk.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from moecompress.core.errors import UnsupportedModelError
from moecompress.core.registry import member, members, nearest
from moecompress.runtime.families._config import Config

HeadNorm = Literal["none", "per_head", "full"]


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: radians per position of each pair of elements, and a factor on sine and cosine."""

    frequencies: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class Layer:
    """One decoder layer: routed experts or a dense feed-forward; attention limited to `window` positions (0: not)."""

    sparse: bool = True
    window: int = 0


@dataclass(frozen=True)
class Sizes:
    """Numbers that every decoder has; `max_positions` is what the model was trained for."""

    hidden: int
    vocabulary: int
    heads: int
    key_value_heads: int
    head_size: int
    max_positions: int


@dataclass(frozen=True)
class Architecture:
    """Every flag of the forward pass, plus what only the loader needs."""

    sizes: Sizes
    norm_epsilon: float
    rope: Rope
    top_k: int
    renormalise: bool
    layers: tuple[Layer, ...]
    tied: bool = False
    head_norm: HeadNorm = "none"
    clip: float = float("inf")
    attention_bias: bool = False
    output_bias: bool = False
    shared_expert: bool = False

    def flags(self) -> dict[str, Any]:
        """The values the core reads, by its own names."""
        sizes = {key: value for key, value in asdict(self.sizes).items() if key != "max_positions"}
        return {
            **sizes,
            "norm_epsilon": self.norm_epsilon,
            "head_norm": self.head_norm,
            "clip": self.clip,
            "attention_scale": self.sizes.head_size**-0.5,
            "rope_frequencies": list(self.rope.frequencies),
            "rope_scale": self.rope.scale,
            "top_k": self.top_k,
            "renormalise": self.renormalise,
            "layers": [(layer.sparse, layer.window) for layer in self.layers],
        }


@dataclass(frozen=True)
class Family:
    """How to read one family: its flags, and the names its routers may have below `model.layers.N.`."""

    architecture: Callable[[Config], Architecture]
    router_names: tuple[str, ...] = ("mlp.gate.weight",)


_KIND = ("moecompress.runtime.families", "FAMILY", "moecompress.runtime.families")


def families() -> Mapping[str, Family]:
    """Model type → family, for every file of this folder."""
    return members(*_KIND)


def family_of(model_type: str) -> Family:
    """The family of a model type. Raises UnsupportedModelError, naming it, when the native engine has none."""
    family: Family | None = member(model_type, *_KIND)
    if family is None:
        raise UnsupportedModelError(
            f"The native engine has no family {model_type!r}.{nearest(model_type, list(families()))} "
            "Artifacts of other families run through moecompress.load_transformers."
        )
    return family


def read_architecture(model_type: str, config: Mapping[str, Any]) -> Architecture:
    """The flags of a model. Raises UnsupportedModelError for a family or a config value the engine does not handle."""
    return family_of(model_type).architecture(Config(model_type, config))
