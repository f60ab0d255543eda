"""Reading one unit of the source: a decoder layer's weights, or the tensors outside all layers, with their names."""

from __future__ import annotations

from moecompress.core.types import MoeLayer
from moecompress.models.discover import ModelLayout
from moecompress.models.experts import read_expert
from moecompress.models.source import TensorSource
from moecompress.passes.base import LayerWeights, TrunkWeight, expert_parameter


def unit_indices(layout: ModelLayout) -> list[int | None]:
    """The units of a model in the order of work: the tensors outside all layers (None), then layer by layer."""
    return [None, *range(layout.layers)]


def expert_sources(moe: MoeLayer) -> list[str]:
    """Checkpoint names of all expert tensors of a layer."""
    templates = [*moe.layout.names.values(), *moe.layout.biases.values()]
    if moe.layout.stacked:
        return templates
    return [template.format(e=expert) for template in templates for expert in range(moe.experts)]


def read_unit(source: TensorSource, layout: ModelLayout, index: int | None) -> tuple[LayerWeights, list[str]]:
    """The weights of a unit as they are in the source, and the checkpoint names that were read for them."""
    tensors = [tensor for tensor in layout.trunk if tensor.layer == index]
    trunk = {tensor.name: TrunkWeight(tensor.role, source.read(tensor.name)) for tensor in tensors}
    moe = layout.moe.get(index) if index is not None else None
    experts = tuple(read_expert(source, moe, e) for e in range(moe.experts)) if moe else ()
    names = [tensor.name for tensor in tensors] + (expert_sources(moe) if moe else [])
    return LayerWeights(index, moe, experts, trunk), names


def parameters(layer: LayerWeights) -> list[str]:
    """The ledger's names of everything in a unit."""
    names = list(layer.trunk)
    if layer.index is not None:
        names += [expert_parameter(layer.index, e, p) for e, expert in enumerate(layer.experts) for p in expert]
    return names
