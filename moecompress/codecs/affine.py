"""Integers of 1 to 8 bits with one fp16 scale and one fp16 minimum per group of 32, 64 or 128 input columns.

Arrays: `codes` uint8 `[out, in]`, each below 2**bits; `scale` and `minimum` float16 `[out, G]`, finite, with
G = ceil(in / group_size): the last group may be shorter. A code stands for `float32(scale) · code + float32(minimum)`,
rounded after the product and again after the sum. Effective bits are `bits + 32 / group_size` plus the padding of the
last tile and block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from moecompress.codecs.base import Bytes, CodecSpec, EncodedWeight, Floats, check_shape
from moecompress.codecs.tiles import BLOCK_COLUMNS, TILE_ROWS, VECTOR_BYTES, blocks, tiles
from moecompress.core.values import Between

if TYPE_CHECKING:
    import numpy as np

PARAMETER_BYTES = 2 * 2 * TILE_ROWS  # one scale and one minimum of each row of a tile


@dataclass(frozen=True, kw_only=True)
class AffineSpec(CodecSpec):
    """`bits` 1 to 8; `group_size` 32, 64 or 128 input columns share a scale and a minimum."""

    codec: Literal["affine"] = "affine"
    bits: Annotated[int, Between(1, 8)]
    group_size: Literal[32, 64, 128]

    @property
    def key(self) -> str:
        """For example `affine4g64`."""
        return f"affine{self.bits}g{self.group_size}"

    def groups(self, columns: int) -> int:
        """G: groups of one row."""
        return -(-columns // self.group_size)

    @property
    def group_bytes(self) -> int:
        """Bytes of a whole group of one tile: parameters, then its blocks."""
        return PARAMETER_BYTES + self.group_size // BLOCK_COLUMNS * VECTOR_BYTES * self.bits

    def tile_bytes(self, columns: int) -> int:
        """Bytes of one tile of rows of `columns` columns."""
        return self.groups(columns) * PARAMETER_BYTES + blocks(columns) * VECTOR_BYTES * self.bits


class AffineCodec:
    """Packs into tiles: for each group 16 scales, 16 minima, then the group's blocks as bit planes."""

    Spec: type[CodecSpec] = AffineSpec
    examples: tuple[CodecSpec, ...] = tuple(
        AffineSpec(bits=bits, group_size=size) for bits in range(1, 9) for size in (32, 64, 128)
    )

    def nbytes(self, spec: AffineSpec, shape: tuple[int, ...]) -> int:
        """`tiles · (G · 64 + blocks · 64 · bits)`."""
        check_shape(spec, shape, range(2, 3))
        return tiles(shape[0]) * spec.tile_bytes(shape[1])

    def pack(self, weight: EncodedWeight) -> Bytes:
        """The kernel-ready bytes. Refuses codes of more than `bits` bits and parameters that are not finite."""
        from moecompress.codecs import _affine

        return _affine.pack(weight)

    def unpack(self, data: Bytes, spec: AffineSpec, shape: tuple[int, ...]) -> EncodedWeight:
        """The inverse of `pack`; what padding holds is not looked at."""
        from moecompress.codecs import _affine

        return _affine.unpack(data, spec, shape, self.nbytes(spec, shape))

    def dequantize(self, weight: EncodedWeight) -> Floats:
        """`scale · code + minimum` in float32, one rounding per operation (no fused multiply-add)."""
        from moecompress.codecs import _affine

        return _affine.dequantize(weight)

    def random(self, spec: AffineSpec, shape: tuple[int, ...], generator: np.random.Generator) -> EncodedWeight:
        """Uniform codes; scales and minima near those of normally distributed weights."""
        from moecompress.codecs import _affine

        return _affine.random(spec, shape, generator)


CODEC = AffineCodec()
