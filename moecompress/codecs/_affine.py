"""The arrays of the affine codec: packing, its inverse, and the numbers the codes stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moecompress.codecs.affine import PARAMETER_BYTES, AffineSpec
from moecompress.codecs.base import Bytes, EncodedWeight, Floats, check_shape
from moecompress.codecs.packing import check_arrays, check_length, pack_codes, padded, unpack_codes
from moecompress.codecs.tiles import TILE_ROWS, VECTOR_BYTES, tiles
from moecompress.core.errors import ArtifactError

Halves = npt.NDArray[np.float16]


def pack(weight: EncodedWeight) -> Bytes:
    """The kernel-ready bytes. Raises ArtifactError for codes or parameters that the spec does not allow."""
    spec = _checked(weight)
    rows, columns = weight.shape
    tile_count, groups = tiles(rows), spec.groups(columns)
    out = np.zeros((tile_count, groups, spec.group_bytes), np.uint8)
    for index, name in enumerate(("scale", "minimum")):
        start = index * PARAMETER_BYTES // 2
        out[:, :, start : start + PARAMETER_BYTES // 2] = _pack_parameters(weight.arrays[name], tile_count)
    codes = padded(weight.arrays["codes"], (rows, groups * spec.group_size))
    out[:, :, PARAMETER_BYTES:] = pack_codes(codes, spec.bits).reshape(tile_count, groups, -1)
    return np.ascontiguousarray(out.reshape(tile_count, -1)[:, : spec.tile_bytes(columns)]).reshape(-1)


def unpack(data: Bytes, spec: AffineSpec, shape: tuple[int, ...], nbytes: int) -> EncodedWeight:
    """The inverse of `pack`; what padding holds is not looked at."""
    data = check_length(data, spec, shape, nbytes)
    (rows, columns), groups = shape, spec.groups(shape[1])
    short = data.reshape(tiles(rows), -1)
    tiled = padded(short, (len(short), groups * spec.group_bytes)).reshape(len(short), groups, -1)
    half = PARAMETER_BYTES // 2
    packed = tiled[:, :, PARAMETER_BYTES:].reshape(len(short), -1, VECTOR_BYTES * spec.bits)
    arrays: dict[str, npt.NDArray[Any]] = {
        "codes": np.ascontiguousarray(unpack_codes(packed, spec.bits)[:rows, :columns]),
        "scale": _unpack_parameters(tiled[:, :, :half], rows),
        "minimum": _unpack_parameters(tiled[:, :, half:PARAMETER_BYTES], rows),
    }
    return EncodedWeight(spec, tuple(shape), arrays)


def dequantize(weight: EncodedWeight) -> Floats:
    """`scale · code + minimum` in float32, one rounding per operation (no fused multiply-add)."""
    spec = _checked(weight)
    rows, columns = weight.shape
    out = padded(weight.arrays["codes"], (rows, spec.groups(columns) * spec.group_size)).astype(np.float32)
    grouped = out.reshape(rows, -1, spec.group_size)
    grouped *= weight.arrays["scale"].astype(np.float32)[:, :, None]
    grouped += weight.arrays["minimum"].astype(np.float32)[:, :, None]
    return np.ascontiguousarray(out[:, :columns])


def random(spec: AffineSpec, shape: tuple[int, ...], generator: np.random.Generator) -> EncodedWeight:
    """Uniform codes; scales and minima near those of normally distributed weights."""
    parameters = (shape[0], spec.groups(shape[1]))
    scale = generator.uniform(0.5, 1.5, parameters) * 6 / 2**spec.bits
    arrays = {
        "codes": generator.integers(0, 2**spec.bits, shape, dtype=np.uint8),
        "scale": scale.astype(np.float16),
        "minimum": (-scale * 2**spec.bits / 2).astype(np.float16),
    }
    return EncodedWeight(spec, tuple(shape), arrays)


def _checked(weight: EncodedWeight) -> AffineSpec:
    """The weight's spec, after its arrays are found to be what the codec documents."""
    spec = weight.spec
    if not isinstance(spec, AffineSpec):
        raise ArtifactError(f"The affine codec was given a weight of codec {spec.codec!r}.")
    check_shape(spec, weight.shape, range(2, 3))
    parameters = ((weight.shape[0], spec.groups(weight.shape[1])), np.float16)
    check_arrays(weight, {"codes": (weight.shape, np.uint8), "scale": parameters, "minimum": parameters})
    largest = int(weight.arrays["codes"].max())
    if largest >= 1 << spec.bits:
        raise ArtifactError(f"A {spec.key} weight has code {largest}; {spec.bits} bits hold 0 to {2**spec.bits - 1}.")
    for name in ("scale", "minimum"):
        if not np.isfinite(weight.arrays[name]).all():
            raise ArtifactError(f"A {spec.key} weight of shape {list(weight.shape)} has a {name} that is not finite.")
    return spec


def _pack_parameters(values: Halves, tile_count: int) -> Bytes:
    """`[out, G]` as `[tiles, G, 32]` bytes: the 16 rows of a tile side by side."""
    groups = values.shape[1]
    full = padded(values, (tile_count * TILE_ROWS, groups)).astype("<f2")
    rows_last = np.ascontiguousarray(full.reshape(tile_count, TILE_ROWS, groups).transpose(0, 2, 1))
    return rows_last.view(np.uint8)


def _unpack_parameters(packed: Bytes, rows: int) -> Halves:
    """The inverse, cut to `rows`."""
    values = np.ascontiguousarray(packed).view("<f2")
    return np.array(values.transpose(0, 2, 1).reshape(-1, packed.shape[1])[:rows], np.float16)
