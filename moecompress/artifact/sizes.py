"""Where everything lies and how large it is, from specs and shapes alone: exact before a weight exists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from moecompress.artifact.checks import check_tensor_name
from moecompress.artifact.container import LINE, aligned, build_header
from moecompress.artifact.manifest import ExpertLayer, StoredExpert, StoredTensor
from moecompress.artifact.records import Planned, place_record
from moecompress.codecs.table import nbytes
from moecompress.core.types import Projection


def experts_file(layer: int) -> str:
    """Name of the file of one layer's experts."""
    return f"experts-{layer:05d}.safetensors"


def reading_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def place_trunk(planned: Mapping[str, Planned]) -> tuple[bytes, dict[str, StoredTensor], int]:
    """Header, table and size of a file holding these tensors, each at a multiple of 64 bytes."""
    sizes = {name: nbytes(*planned[name]) for name in sorted(planned, key=reading_order)}
    for name in sizes:
        check_tensor_name(name)
    header = build_header((name, aligned(size, LINE)) for name, size in sizes.items())
    table, position = {}, len(header)
    for name, size in sizes.items():
        spec, shape = planned[name]
        table[name] = StoredTensor(codec=spec.key, shape=shape, offset=position, bytes=size)
        position += aligned(size, LINE)
    return header, table, position


def place_experts(layer: int, planned: Sequence[Mapping[Projection, Planned]]) -> tuple[bytes, ExpertLayer, int]:
    """Header, table and size of one layer's expert file."""
    lengths = [place_record(expert, 0).bytes for expert in planned]
    header = build_header((f"layers.{layer}.experts.{index}", length) for index, length in enumerate(lengths))
    records, position = [], len(header)
    for expert, length in zip(planned, lengths, strict=True):
        records.append(place_record(expert, position))
        position += length
    return header, ExpertLayer(layer=layer, file=experts_file(layer), experts=tuple(records)), position


def planned_weight_bytes(
    trunk: Mapping[str, Planned], experts: Mapping[int, Sequence[Mapping[Projection, Planned]]]
) -> int:
    """`size.weight_bytes` of an artifact with these weights: headers, records and alignment included."""
    files = [place_experts(layer, planned)[2] for layer, planned in experts.items()]
    return place_trunk(trunk)[2] + sum(files)


def tensor_bits(tensor: StoredTensor) -> float:
    """Effective bits per weight of one packed matrix."""
    return 8 * tensor.bytes / tensor.parameters


def expert_bits(expert: StoredExpert) -> dict[Projection, float]:
    """Effective bits per weight of each matrix of one expert."""
    return {name: tensor_bits(tensor) for name, tensor in expert.projections.items()}
