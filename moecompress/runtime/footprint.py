"""What one token touches of an artifact's weights, from its tables alone.

While decoding, every matrix of the trunk is read once per token, of the embedding one row; in each sparse layer the
`top_k` routed experts are read. A *token set* is that many experts: the least a cache must hold to be of use between
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from moecompress.runtime.tables import LayerRow, Tables


@dataclass(frozen=True)
class Footprint:
    """Bytes are packed weights, scales included; an expert counts as the mean of its layer.

    `trunk_bytes` and `expert_bytes` are touched per decoded token. `record_bytes` are what a token's experts take on
    disk and in slots. `experts`, `all_records_bytes`: of the whole artifact. `token_set`: experts per token.
    """

    trunk_bytes: int
    expert_bytes: int
    token_set: int
    record_bytes: int
    experts: int
    all_records_bytes: int

    @classmethod
    def of(cls, tables: Tables) -> Self:
        """The footprint of an artifact."""
        top_k, tied = tables.architecture.top_k, tables.architecture.tied
        layers = [layer for layer in tables.experts if layer[2]]
        return cls(
            trunk_bytes=sum(_bytes(row[3]) for row in tables.trunk if tied or row[0] != "embedding"),
            expert_bytes=sum(round(top_k * _mean(_weights(layer))) for layer in layers),
            token_set=top_k * len(layers),
            record_bytes=sum(round(top_k * _mean(_records(layer))) for layer in layers),
            experts=sum(len(layer[2]) for layer in layers),
            all_records_bytes=sum(sum(_records(layer)) for layer in layers),
        )

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that one decoded token touches."""
        return self.trunk_bytes + self.expert_bytes


def _bytes(tensor: tuple[str, int, int, int, int, int, int]) -> int:
    return tensor[-1]


def _weights(layer: LayerRow) -> list[int]:
    return [sum(map(_bytes, expert[2:])) for expert in layer[2]]


def _records(layer: LayerRow) -> list[int]:
    return [expert[1] for expert in layer[2]]


def _mean(sizes: list[int]) -> float:
    return sum(sizes) / len(sizes)
