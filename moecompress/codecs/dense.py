"""Uncompressed weights in kernel order: bf16 or float32. Lossless; for routers, norms, biases and embeddings.

Arrays: `weight`, uint16 holding bfloat16 bits (`bf16`) or float32 (`f32`), of the tensor's shape. A matrix is stored in
tiles of 16 rows, column after column (`[tiles][in][16]`, missing rows zero); tensors of any other number of dimensions
are stored as they are, in C order.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from moecompress.codecs.base import MAX_DIMENSIONS, Bytes, CodecSpec, EncodedWeight, Floats, check_shape
from moecompress.codecs.tiles import TILE_ROWS, tiles

if TYPE_CHECKING:
    import numpy as np


def dense_weight(values: Floats, dtype: Literal["bf16", "f32"] = "bf16") -> EncodedWeight:
    """A float32 array as a dense weight; `bf16` rounds to nearest even."""
    from moecompress.codecs import _dense

    return EncodedWeight(DenseSpec(dtype=dtype), tuple(values.shape), {"weight": _dense.stored(values, dtype)})


@dataclass(frozen=True, kw_only=True)
class DenseSpec(CodecSpec):
    """`dtype`: bf16 (2 bytes a weight) or f32 (4)."""

    codec: Literal["dense"] = "dense"
    dtype: Literal["bf16", "f32"]

    @property
    def key(self) -> str:
        """`densebf16` or `densef32`."""
        return f"dense{self.dtype}"

    @property
    def itemsize(self) -> int:
        """Bytes of one weight."""
        return 2 if self.dtype == "bf16" else 4


class DenseCodec:
    """Lossless storage; effective bits are 16 or 32 plus the padding of the last 16 rows."""

    Spec: type[CodecSpec] = DenseSpec
    examples: tuple[CodecSpec, ...] = (DenseSpec(dtype="bf16"), DenseSpec(dtype="f32"))

    def nbytes(self, spec: DenseSpec, shape: tuple[int, ...]) -> int:
        """`tiles · in · 16` values of a matrix, the number of values otherwise."""
        check_shape(spec, shape, range(MAX_DIMENSIONS + 1))
        values = tiles(shape[0]) * TILE_ROWS * shape[1] if len(shape) == 2 else prod(shape)
        return values * spec.itemsize

    def pack(self, weight: EncodedWeight) -> Bytes:
        """The values in kernel order as little-endian bytes."""
        from moecompress.codecs import _dense

        return _dense.pack(weight)

    def unpack(self, data: Bytes, spec: DenseSpec, shape: tuple[int, ...]) -> EncodedWeight:
        """The inverse of `pack`."""
        from moecompress.codecs import _dense

        return _dense.unpack(data, spec, shape, self.nbytes(spec, shape))

    def dequantize(self, weight: EncodedWeight) -> Floats:
        """The stored values as float32, exactly."""
        from moecompress.codecs import _dense

        return _dense.dequantize(weight)

    def random(self, spec: DenseSpec, shape: tuple[int, ...], generator: np.random.Generator) -> EncodedWeight:
        """Normally distributed weights."""
        from moecompress.codecs import _dense

        return dense_weight(_dense.random(shape, generator), spec.dtype)


CODEC = DenseCodec()
