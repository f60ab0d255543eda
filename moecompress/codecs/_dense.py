"""The arrays of the dense codec: kernel order and back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moecompress.codecs.base import MAX_DIMENSIONS, Bytes, EncodedWeight, Floats, check_shape
from moecompress.codecs.bfloat16 import bf16_bits, bf16_values
from moecompress.codecs.dense import DenseSpec
from moecompress.codecs.packing import check_arrays, check_length, padded
from moecompress.codecs.tiles import TILE_ROWS, tiles
from moecompress.core.errors import ArtifactError

_NUMBERS: dict[str, np.dtype[Any]] = {"bf16": np.dtype("<u2"), "f32": np.dtype("<f4")}


def stored(values: Floats, dtype: Literal["bf16", "f32"]) -> npt.NDArray[Any]:
    """The array a dense weight holds for float32 values."""
    return bf16_bits(values) if dtype == "bf16" else np.asarray(values, np.float32)


def pack(weight: EncodedWeight) -> Bytes:
    """The values in kernel order as little-endian bytes."""
    spec = _checked(weight)
    values = weight.arrays["weight"]
    if values.ndim == 2:
        rows, columns = values.shape
        full = padded(values, (tiles(rows) * TILE_ROWS, columns))
        values = full.reshape(-1, TILE_ROWS, columns).transpose(0, 2, 1)
    return np.ascontiguousarray(values, _NUMBERS[spec.dtype]).reshape(-1).view(np.uint8)


def unpack(data: Bytes, spec: DenseSpec, shape: tuple[int, ...], nbytes: int) -> EncodedWeight:
    """The inverse of `pack`."""
    values = check_length(data, spec, shape, nbytes).view(_NUMBERS[spec.dtype])
    if len(shape) == 2:
        values = values.reshape(-1, shape[1], TILE_ROWS).transpose(0, 2, 1).reshape(-1, shape[1])[: shape[0]]
    return EncodedWeight(spec, tuple(shape), {"weight": np.array(values.reshape(shape))})


def dequantize(weight: EncodedWeight) -> Floats:
    """The stored values as float32, exactly."""
    spec = _checked(weight)
    values = weight.arrays["weight"]
    return bf16_values(values) if spec.dtype == "bf16" else values.astype(np.float32)


def random(shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
    """Normally distributed values."""
    return generator.standard_normal(shape).astype(np.float32)


def _checked(weight: EncodedWeight) -> DenseSpec:
    """The weight's spec, after its one array is found to be what the codec documents."""
    spec = weight.spec
    if not isinstance(spec, DenseSpec):
        raise ArtifactError(f"The dense codec was given a weight of codec {spec.codec!r}.")
    check_shape(spec, weight.shape, range(MAX_DIMENSIONS + 1))
    check_arrays(weight, {"weight": (weight.shape, _NUMBERS[spec.dtype])})
    return spec
