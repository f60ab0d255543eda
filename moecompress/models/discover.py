"""What a checkpoint is made of: its MoE layers, how their experts lie on disk, and the role of every other tensor.

Read from tensor names and shapes alone, then checked against the config and against transformers' own module classes,
so that a missing, surplus or misplaced tensor is found before any weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from moecompress.core.errors import SourceError, UnsupportedModelError
from moecompress.core.types import MoeLayer, Role
from moecompress.models.families.base import Family, family_of
from moecompress.models.layouts import ExpertBlock, expert_name, find_blocks, is_expert_name, layer_of
from moecompress.models.roles import role_of
from moecompress.models.skeleton import Skeleton
from moecompress.models.source import TensorSource

WEIGHT_TYPES = (torch.bfloat16, torch.float16, torch.float32)
EXPERT_KEYS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
TOP_K_KEYS = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token")
WIDTH_KEYS = ("moe_intermediate_size", "intermediate_size")


@dataclass(frozen=True)
class TrunkTensor:
    """A tensor outside the routed experts; `layer` is None outside all decoder layers."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: int | None
    role: Role


@dataclass(frozen=True)
class ModelLayout:
    """Everything known of a model without reading weights. `layers` counts decoder layers, with or without experts."""

    model_type: str
    layers: int
    moe: Mapping[int, MoeLayer]
    trunk: tuple[TrunkTensor, ...]

    def layer_trunk(self, layer: int | None) -> tuple[TrunkTensor, ...]:
        """The trunk tensors of one decoder layer, or (None) those outside all layers."""
        return tuple(tensor for tensor in self.trunk if tensor.layer == layer)

    def expert_names(self, layer: int) -> tuple[str, ...]:
        """Every checkpoint tensor that holds routed experts of a layer; empty for a dense layer."""
        if layer not in self.moe:
            return ()
        moe = self.moe[layer]
        experts = range(1 if moe.layout.stacked else moe.experts)
        return tuple(expert_name(moe.layout, part, expert) for expert in experts for part in moe.layout.names)


def discover(source: TensorSource) -> ModelLayout:
    """The layout of a checkpoint.

    Raises UnsupportedModelError (a dense model, an unknown family or layout, a quantised checkpoint) or SourceError
    (tensors missing or at odds with the config), naming the tensor or key.
    """
    blocks = find_blocks(source.names)
    _refuse_dense(source)
    family = family_of(source.config["model_type"])
    skeleton = Skeleton(source.config)
    _refuse_config(source, family, skeleton.text_config)
    moe = {layer.index: layer for layer in (_moe_layer(source, found, skeleton, family) for found in blocks.values())}
    layout = ModelLayout(source.config["model_type"], skeleton.layers, dict(sorted(moe.items())), ())
    routed = {name for layer in moe for name in layout.expert_names(layer)}
    _refuse_leftovers(source, routed)
    trunk = tuple(_trunk_tensor(source, name, moe) for name in source.names if name not in routed)
    layout = ModelLayout(layout.model_type, layout.layers, layout.moe, trunk)
    skeleton.check(layout)
    return layout


def _refuse_dense(source: TensorSource) -> None:
    if not any(map(is_expert_name, source.names)):
        raise UnsupportedModelError(
            f"{source.folder} holds a dense model of the family {source.config['model_type']!r}: none of its "
            f"{len(source.names)} tensors belongs to a routed expert. A Mixture-of-Experts checkpoint is needed."
        )


def _refuse_config(source: TensorSource, family: Family, config: Any) -> None:
    if source.config.get("quantization_config"):
        method = source.config["quantization_config"].get("quant_method", "unknown")
        raise UnsupportedModelError(
            f"{source.folder} is already quantised (method {method!r}); start from the bf16, f16 or f32 checkpoint."
        )
    reason = family.refusal(config)
    if reason:
        raise UnsupportedModelError(f"{source.folder} cannot be handled: {reason}")


def _refuse_leftovers(source: TensorSource, routed: set[str]) -> None:
    for name in source.names:
        if is_expert_name(name) and name not in routed:
            raise UnsupportedModelError(
                f"{name!r} lies among the experts but belongs to no known expert layout. Experts are read as "
                "experts.N.gate_proj/up_proj/down_proj, experts.N.w1/w3/w2 or experts.gate_up_proj/down_proj."
            )


def _config_value(config: Any, keys: tuple[str, ...]) -> int:
    for key in keys:
        value = getattr(config, key, None)
        if isinstance(value, int):
            return value
    raise SourceError(f"The config has none of {', '.join(keys)}, which a Mixture-of-Experts model needs.")


def _moe_layer(source: TensorSource, candidates: list[ExpertBlock], skeleton: Skeleton, family: Family) -> MoeLayer:
    config = skeleton.text_config
    experts, hidden = _config_value(config, EXPERT_KEYS), config.hidden_size
    width = _config_value(config, WIDTH_KEYS)
    block = _fitting(source, candidates, experts, hidden, width)
    return MoeLayer(
        index=block.layer,
        path=block.path,
        experts=experts,
        top_k=_config_value(config, TOP_K_KEYS),
        hidden=hidden,
        width=width,
        layout=block.template.layout(block.path),
        router=_router(source, block, experts),
        shared=tuple(name for name in source.names if name.startswith(block.path + ".shared")),
        activation=family.activation(config),
        groups=family.groups(config),
    )


def _fitting(source: TensorSource, candidates: list[ExpertBlock], experts: int, hidden: int, width: int) -> ExpertBlock:
    problems = []
    for block in candidates:
        problem = _misfit(source, block, experts, hidden, width)
        if problem is None:
            return block
        problems.append(problem)
    raise problems[0]


def _misfit(source: TensorSource, block: ExpertBlock, experts: int, hidden: int, width: int) -> SourceError | None:
    layout = block.template.layout(block.path)
    largest = max(max(seen) for seen in block.seen.values())
    if not layout.stacked and largest >= experts:
        return SourceError(f"{block.path} holds an expert {largest}, but the config has {experts} experts a layer.")
    for part in layout.names:
        expected = block.template.shape(part, experts, hidden, width)
        for expert in range(1 if layout.stacked else experts):
            name = expert_name(layout, part, expert)
            if name not in source:
                return SourceError(f"{source.folder} has no tensor {name!r}; the config has {experts} experts a layer.")
            if source.shape(name) != expected:
                return SourceError(
                    f"{name!r} has the shape {list(source.shape(name))}, but {experts} experts of width {width} on "
                    f"hidden size {hidden}, as the config says, need {list(expected)}."
                )
            if source.dtype(name) not in WEIGHT_TYPES:
                return UnsupportedModelError(f"{name!r} has the type {source.dtype(name)}; bf16, f16 and f32 are read.")
    return None


def _router(source: TensorSource, block: ExpertBlock, experts: int) -> tuple[str, ...]:
    beside = [name for name in source.names if name.startswith(block.path + ".") and not is_expert_name(name)]
    routing = [name for name in beside if not name.startswith(block.path + ".shared")]
    leading = tuple(name for name in routing if _leads(source.shape(name), experts))
    if not leading:
        raise UnsupportedModelError(f"{block.path} has no router: no tensor beside its experts has {experts} rows.")
    return leading


def _leads(shape: tuple[int, ...], experts: int) -> bool:
    return shape[:1] == (experts,) or shape == (1, experts)


def _trunk_tensor(source: TensorSource, name: str, moe: Mapping[int, MoeLayer]) -> TrunkTensor:
    layer = layer_of(name)
    role = role_of(name, source.shape(name), None if layer is None else moe.get(layer))
    return TrunkTensor(name, source.shape(name), source.dtype(name), layer, role)
