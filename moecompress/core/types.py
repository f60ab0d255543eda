"""Values that cross floors. Shapes: E experts, K top-k, H hidden size, I expert width, T tokens.

Matrices are canonical everywhere: `[out, in]`, so gate and up are `[I, H]` and down is `[H, I]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Projection = Literal["gate", "up", "down"]
PROJECTIONS: tuple[Projection, ...] = ("gate", "up", "down")
Role = Literal["embedding", "head", "norm", "attention", "router", "shared_expert", "dense_ffn", "bias", "other"]


@dataclass(frozen=True)
class Activation:
    """The function between gate/up and down: `act(gate) * up`, or `act(up)` for experts without a gate."""

    kind: str = "silu"
    gated: bool = True
    limit: float | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class ExpertLayout:
    """How one MoE layer's experts lie in the checkpoint.

    `names` maps a part to a tensor name: `gate`, `up`, `down`, or `gate_up` and `down`; `{e}` stands for the expert's
    index when every expert has tensors of its own, otherwise (`stacked`) the tensor's first axis is the expert.
    `transposed`: stored `[in, out]`. `interleaved`: rows of `gate_up` alternate gate, up. `biases` is like `names`.
    """

    names: Mapping[str, str]
    stacked: bool
    transposed: bool = False
    interleaved: bool = False
    biases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MoeLayer:
    """One MoE block of a model, as discovered from its tensor index and config."""

    index: int
    path: str
    experts: int
    top_k: int
    hidden: int
    width: int
    layout: ExpertLayout
    router: tuple[str, ...]
    shared: tuple[str, ...]
    activation: Activation = Activation()
    groups: int = 1

    def projection_shape(self, projection: Projection) -> tuple[int, int]:
        """`[out, in]` of one expert's matrix."""
        return (self.hidden, self.width) if projection == "down" else (self.width, self.hidden)
