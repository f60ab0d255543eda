"""Reading one unit of the source: a decoder layer's weights, or the tensors outside all layers, with their names."""

from __future__ import annotations

import torch

from moecompress.models.discover import ModelLayout
from moecompress.models.experts import read_expert
from moecompress.models.source import TensorSource
from moecompress.passes.base import LayerWeights, TrunkWeight, expert_parameter


def unit_indices(layout: ModelLayout) -> list[int | None]:
    """The units of a model in the order of work: the tensors outside all layers (None), then layer by layer."""
    return [None, *range(layout.layers)]


def read_unit(source: TensorSource, layout: ModelLayout, index: int | None) -> tuple[LayerWeights, list[str]]:
    """The weights of a unit as they are in the source, and the checkpoint names that were read for them."""
    tensors = layout.layer_trunk(index)
    trunk = {tensor.name: TrunkWeight(tensor.role, source.read(tensor.name)) for tensor in tensors}
    moe = layout.moe.get(index) if index is not None else None
    experts = tuple(read_expert(source, moe, e) for e in range(moe.experts)) if moe else ()
    names = [tensor.name for tensor in tensors]
    if index is not None:
        names += layout.expert_names(index)
    return LayerWeights(index, moe, experts, trunk), names


def parameters(layer: LayerWeights) -> list[str]:
    """The ledger's names of everything in a unit."""
    names = list(layer.trunk)
    if layer.index is not None:
        names += [expert_parameter(layer.index, e, p) for e, expert in enumerate(layer.experts) for p in expert]
    return names


def expert_dtype(source: TensorSource, layout: ModelLayout, index: int) -> torch.dtype:
    """The number type of a layer's experts in the checkpoint."""
    return source.dtype(layout.expert_names(index)[0])


def dtype_name(source: TensorSource, layout: ModelLayout) -> str:
    """The number type of the experts, or of the first tensor of a model without any, such as `bfloat16`."""
    names = layout.expert_names(next(iter(layout.moe), 0)) or source.names
    return str(source.dtype(names[0])).removeprefix("torch.")
