"""What a checkpoint is made of: its MoE layers, how their experts lie on disk, and the role of every other tensor.

Read from tensor names and shapes alone, then checked against the config and against transformers' own module classes,
so that a missing, surplus or misplaced tensor is found before any weight is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from moecompress.core.errors import SourceError, UnsupportedModelError
from moecompress.core.types import MoeLayer, Role
from moecompress.models.families.base import Family, family_of
from moecompress.models.layouts import TEMPLATES, expert_names, find_blocks, is_expert_name, layer_of
from moecompress.models.moe import EXPERT_KEYS, Headers, describe, fitting_template
from moecompress.models.roles import role_of
from moecompress.models.skeleton import Skeleton
from moecompress.models.source import TensorSource


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
        return expert_names(self.moe[layer].layout, self.moe[layer].experts) if layer in self.moe else ()


def discover(source: TensorSource) -> ModelLayout:
    """The layout of a checkpoint.

    Raises UnsupportedModelError (a dense model, an unknown family or layout, a quantised checkpoint), SourceError
    (tensors missing or at odds with the config) or CoverageError (a tensor the model has no place for), each naming
    the tensor or key.
    """
    headers = {name: (source.shape(name), source.dtype(name)) for name in source.names}
    family = _supported_family(source)
    skeleton = Skeleton(source.config)
    if reason := family.refusal(skeleton.text_config):
        raise UnsupportedModelError(f"{source.folder} cannot be handled: {reason}")
    moe, routed = {}, set()
    for path, candidates in find_blocks(headers).items():
        template = fitting_template(path, candidates, headers, skeleton.text_config)
        layer = describe(_layer_index(path), path, template, headers, skeleton.text_config, family)
        moe[layer.index] = layer
        routed |= set(expert_names(layer.layout, layer.experts))
    trunk = {name: header for name, header in headers.items() if name not in routed}
    _refuse_leftovers(trunk)
    return _checked_layout(skeleton, moe, trunk)


def layout_from_trunk(config: Mapping[str, object], trunk: Headers) -> ModelLayout:
    """The layout of a model whose experts are stored in some other way, such as an artifact's records.

    `trunk` maps checkpoint names to shape and type. Which layers have experts follows from the config; the experts get
    the names of the common per-expert layout. Errors as in `discover`.
    """
    family = family_of(str(config["model_type"]))
    skeleton = Skeleton(config)
    moe = {}
    for layer in range(skeleton.layers):
        if skeleton.experts_path(layer) is not None:
            path = _block_path(skeleton, layer, trunk)
            moe[layer] = describe(layer, path, TEMPLATES[0], trunk, skeleton.text_config, family)
    return _checked_layout(skeleton, moe, trunk)


def _supported_family(source: TensorSource) -> Family:
    model_type, routed = source.config["model_type"], any(map(is_expert_name, source.names))
    if not routed and not any(key in source.config for key in EXPERT_KEYS):
        raise UnsupportedModelError(
            f"{source.folder} holds a dense model of the family {model_type!r}: none of its {len(source.names)} "
            "tensors belongs to a routed expert. A Mixture-of-Experts checkpoint is needed."
        )
    family = family_of(model_type)
    if not routed:
        raise SourceError(f"The config of {source.folder} speaks of experts, but none of its tensors belongs to one.")
    if quantised := source.config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise UnsupportedModelError(
            f"{source.folder} is already quantised (method {method!r}); start from the bf16, f16 or f32 checkpoint."
        )
    return family


def _layer_index(path: str) -> int:
    layer = layer_of(path)
    if layer is None:
        raise UnsupportedModelError(f"The experts at {path!r} belong to no numbered decoder layer.")
    return layer


def _refuse_leftovers(trunk: Iterable[str]) -> None:
    for name in filter(is_expert_name, trunk):
        raise UnsupportedModelError(
            f"{name!r} lies among the experts but belongs to no known expert layout. Experts are read as "
            "experts.N.gate_proj/up_proj/down_proj, experts.N.w1/w3/w2 or experts.gate_up_proj/down_proj."
        )


def _block_path(skeleton: Skeleton, layer: int, names: Iterable[str]) -> str:
    """The path on disk of a layer's MoE block, from a tensor in it; best one whose name inside is as in memory."""
    inside = skeleton.block_path(layer) + "."
    found = []
    for name in sorted(names):
        place = skeleton.place(name)
        if place is not None and place.startswith(inside):
            ending = "." + place.removeprefix(inside)
            found.append((not name.endswith(ending), name.rsplit(".", ending.count("."))[0]))
    if not found:
        raise SourceError(f"Decoder layer {layer} has no router: no tensor belongs to {inside[:-1]!r}.")
    return min(found)[1]


def _checked_layout(skeleton: Skeleton, moe: Mapping[int, MoeLayer], trunk: Headers) -> ModelLayout:
    tensors = []
    for name, (shape, dtype) in sorted(trunk.items()):
        layer = layer_of(name)
        role = role_of(name, shape, None if layer is None else moe.get(layer))
        tensors.append(TrunkTensor(name, shape, dtype, layer, role))
    layout = ModelLayout(skeleton.config.model_type, skeleton.layers, dict(sorted(moe.items())), tuple(tensors))
    skeleton.check(layout)
    return layout
