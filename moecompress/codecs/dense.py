"""Uncompressed weights in kernel order: bf16 or float32. Lossless; for routers, norms, biases and embeddings.

Arrays: `weight`, uint16 holding bfloat16 bits (`bf16`) or float32 (`f32`), of the tensor's shape. A matrix is stored in
tiles of 16 rows, column after column (`[tiles][in][16]`, missing rows zero); tensors of any other number of dimensions
are stored as they are, in C order.
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moecompress.codecs.base import (
    MAX_DIMENSIONS,
    Bytes,
    CodecSpec,
    EncodedWeight,
    check_arrays,
    check_length,
    check_shape,
)
from moecompress.codecs.packing import TILE_ROWS, padded, tiles
from moecompress.core.errors import ArtifactError


def bf16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The nearest bfloat16 of each float32, ties to even, as its 16 bits; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x0040)
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16).reshape(np.shape(values))


def bf16_values(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The float32 of each bfloat16, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def dense_weight(values: npt.NDArray[np.float32], dtype: Literal["bf16", "f32"] = "bf16") -> EncodedWeight:
    """A float32 array as a dense weight; `bf16` rounds to nearest even."""
    stored = bf16_bits(values) if dtype == "bf16" else np.asarray(values, np.float32)
    return EncodedWeight(DenseSpec(dtype=dtype), tuple(np.shape(values)), {"weight": stored})


class DenseSpec(CodecSpec):
    """`dtype`: bf16 (2 bytes a weight) or f32 (4)."""

    codec: Literal["dense"] = "dense"
    dtype: Literal["bf16", "f32"]

    @property
    def key(self) -> str:
        """`densebf16` or `densef32`."""
        return f"dense{self.dtype}"

    @property
    def stored(self) -> np.dtype[Any]:
        """The little-endian number type on disk."""
        return np.dtype("<u2" if self.dtype == "bf16" else "<f4")


class DenseCodec:
    """Lossless storage; effective bits are 16 or 32 plus the padding of the last 16 rows."""

    Spec: type[CodecSpec] = DenseSpec
    examples: tuple[CodecSpec, ...] = (DenseSpec(dtype="bf16"), DenseSpec(dtype="f32"))

    def nbytes(self, spec: DenseSpec, shape: tuple[int, ...]) -> int:
        """`tiles · in · 16` values of a matrix, the number of values otherwise."""
        check_shape(spec, shape, range(MAX_DIMENSIONS + 1))
        values = tiles(shape[0]) * TILE_ROWS * shape[1] if len(shape) == 2 else prod(shape)
        return values * spec.stored.itemsize

    def pack(self, weight: EncodedWeight) -> Bytes:
        """The values in kernel order as little-endian bytes."""
        spec = _checked(weight)
        values = weight.arrays["weight"]
        if values.ndim == 2:
            rows, columns = values.shape
            full = padded(values, (tiles(rows) * TILE_ROWS, columns))
            values = full.reshape(-1, TILE_ROWS, columns).transpose(0, 2, 1)
        return np.ascontiguousarray(values, spec.stored).reshape(-1).view(np.uint8)

    def unpack(self, data: Bytes, spec: DenseSpec, shape: tuple[int, ...]) -> EncodedWeight:
        """The inverse of `pack`."""
        values = check_length(data, spec, shape, self.nbytes(spec, shape)).view(spec.stored)
        if len(shape) == 2:
            values = values.reshape(-1, shape[1], TILE_ROWS).transpose(0, 2, 1).reshape(-1, shape[1])[: shape[0]]
        return EncodedWeight(spec, tuple(shape), {"weight": np.array(values.reshape(shape))})

    def dequantize(self, weight: EncodedWeight) -> npt.NDArray[np.float32]:
        """The stored values as float32, exactly."""
        spec = _checked(weight)
        values = weight.arrays["weight"]
        return bf16_values(values) if spec.dtype == "bf16" else values.astype(np.float32)

    def random(self, spec: DenseSpec, shape: tuple[int, ...], generator: np.random.Generator) -> EncodedWeight:
        """Normally distributed weights."""
        return dense_weight(generator.standard_normal(shape).astype(np.float32), spec.dtype)


def _checked(weight: EncodedWeight) -> DenseSpec:
    """The weight's spec, after its one array is found to be what the header of this file documents."""
    spec = weight.spec
    if not isinstance(spec, DenseSpec):
        raise ArtifactError(f"The dense codec was given a weight of codec {spec.codec!r}.")
    check_shape(spec, weight.shape, range(MAX_DIMENSIONS + 1))
    check_arrays(weight, {"weight": (weight.shape, spec.stored)})
    return spec


CODEC = DenseCodec()
