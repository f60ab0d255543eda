"""One expert at a time between the checkpoint's layout and canonical matrices `[out, in]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from moecompress.core.types import MoeLayer, Projection
from moecompress.models.layouts import expert_name
from moecompress.models.source import TensorSource

Expert = Mapping[Projection, torch.Tensor]


def read_expert(source: TensorSource, layer: MoeLayer, expert: int) -> dict[Projection, torch.Tensor]:
    """Gate and up `[I, H]` and down `[H, I]` of one expert, in the checkpoint's type."""
    layout = layer.layout
    parts = {}
    for part in layout.names:
        matrix = source.read(expert_name(layout, part, expert), expert if layout.stacked else None)
        parts[part] = matrix.mT if layout.transposed else matrix
    if "gate_up" in parts:
        parts["gate"], parts["up"] = split_gate_up(parts.pop("gate_up"), layout.interleaved)
    return {projection: parts[projection].contiguous() for projection in ("gate", "up", "down") if projection in parts}


def split_gate_up(matrix: torch.Tensor, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Gate and up of a joined matrix `[2I, H]`: halves, or alternating rows."""
    if interleaved:
        return matrix[0::2], matrix[1::2]
    half = matrix.shape[0] // 2
    return matrix[:half], matrix[half:]


def join_gate_up(gate: torch.Tensor, up: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """The inverse of `split_gate_up`."""
    return torch.stack((gate, up), dim=1).flatten(0, 1) if interleaved else torch.cat((gate, up))


def expert_tensors(layer: MoeLayer, read: Callable[[int], Expert]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each checkpoint tensor that holds a layer's experts; `read(e)` gives the canonical matrices.

    Stacked layouts build one tensor of all experts; the others yield expert by expert.
    """
    if layer.layout.stacked:
        yield from _stacked(layer, read)
        return
    for expert in range(layer.experts):
        for part, matrix in _stored(layer, read(expert)).items():
            yield expert_name(layer.layout, part, expert), matrix


def _stored(layer: MoeLayer, expert: Expert) -> dict[str, torch.Tensor]:
    parts: dict[str, torch.Tensor] = {str(projection): matrix for projection, matrix in expert.items()}
    if "gate_up" in layer.layout.names:
        parts["gate_up"] = join_gate_up(parts.pop("gate"), parts.pop("up"), layer.layout.interleaved)
    return {part: (matrix.mT if layer.layout.transposed else matrix).contiguous() for part, matrix in parts.items()}


def _stacked(layer: MoeLayer, read: Callable[[int], Expert]) -> Iterator[tuple[str, torch.Tensor]]:
    stacks: dict[str, torch.Tensor] = {}
    for expert in range(layer.experts):
        for part, matrix in _stored(layer, read(expert)).items():
            if part not in stacks:
                stacks[part] = matrix.new_empty((layer.experts, *matrix.shape))
            stacks[part][expert] = matrix
    for part, stack in stacks.items():
        yield layer.layout.names[part], stack
