"""Integers of 1 to 8 bits with one fp16 scale and one fp16 minimum per group of 32, 64 or 128 input columns.

Arrays: `codes` uint8 `[out, in]`, each below 2**bits; `scale` and `minimum` float16 `[out, G]`, finite, with
G = ceil(in / group_size): the last group may be shorter. A code stands for `float32(scale) · code + float32(minimum)`,
rounded after the product and again after the sum. Effective bits are `bits + 32 / group_size` plus the padding of the
last tile and block.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moecompress.codecs.base import Bytes, CodecSpec, EncodedWeight, check_arrays, check_length, check_shape
from moecompress.codecs.packing import (
    BLOCK_COLUMNS,
    TILE_ROWS,
    VECTOR_BYTES,
    blocks,
    pack_codes,
    padded,
    tiles,
    unpack_codes,
)
from moecompress.core.errors import ArtifactError

Halves = npt.NDArray[np.float16]

PARAMETER_BYTES = 2 * 2 * TILE_ROWS  # one scale and one minimum of each row of a tile


class AffineSpec(CodecSpec):
    """`bits` 1 to 8; `group_size` 32, 64 or 128 input columns share a scale and a minimum."""

    codec: Literal["affine"] = "affine"
    bits: int = Field(ge=1, le=8)
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


class AffineCodec:
    """Packs into tiles: for each group 16 scales, 16 minima, then the group's blocks as bit planes."""

    Spec: type[CodecSpec] = AffineSpec
    examples: tuple[CodecSpec, ...] = tuple(
        AffineSpec(bits=bits, group_size=size) for bits in range(1, 9) for size in (32, 64, 128)
    )

    def nbytes(self, spec: AffineSpec, shape: tuple[int, ...]) -> int:
        """`tiles · (G · 64 + blocks · 64 · bits)`."""
        check_shape(spec, shape, range(2, 3))
        return tiles(shape[0]) * _tile_bytes(spec, shape[1])

    def pack(self, weight: EncodedWeight) -> Bytes:
        """The kernel-ready bytes. Refuses codes of more than `bits` bits and parameters that are not finite."""
        spec = _checked(weight)
        rows, columns = weight.shape
        tile_count, groups = tiles(rows), spec.groups(columns)
        out = np.zeros((tile_count, groups, spec.group_bytes), np.uint8)
        for index, name in enumerate(("scale", "minimum")):
            start = index * PARAMETER_BYTES // 2
            out[:, :, start : start + PARAMETER_BYTES // 2] = _pack_parameters(weight.arrays[name], tile_count)
        codes = padded(weight.arrays["codes"], (rows, groups * spec.group_size))
        out[:, :, PARAMETER_BYTES:] = pack_codes(codes, spec.bits).reshape(tile_count, groups, -1)
        return np.ascontiguousarray(out.reshape(tile_count, -1)[:, : _tile_bytes(spec, columns)]).reshape(-1)

    def unpack(self, data: Bytes, spec: AffineSpec, shape: tuple[int, ...]) -> EncodedWeight:
        """The inverse of `pack`; what padding holds is not looked at."""
        data = check_length(data, spec, shape, self.nbytes(spec, shape))
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

    def dequantize(self, weight: EncodedWeight) -> npt.NDArray[np.float32]:
        """`scale · code + minimum` in float32, one rounding per operation (no fused multiply-add)."""
        spec = _checked(weight)
        rows, columns = weight.shape
        out = padded(weight.arrays["codes"], (rows, spec.groups(columns) * spec.group_size)).astype(np.float32)
        grouped = out.reshape(rows, -1, spec.group_size)
        grouped *= weight.arrays["scale"].astype(np.float32)[:, :, None]
        grouped += weight.arrays["minimum"].astype(np.float32)[:, :, None]
        return np.ascontiguousarray(out[:, :columns])

    def random(self, spec: AffineSpec, shape: tuple[int, ...], generator: np.random.Generator) -> EncodedWeight:
        """Uniform codes; scales and minima near those of normally distributed weights."""
        parameters = (shape[0], spec.groups(shape[1]))
        scale = generator.uniform(0.5, 1.5, parameters) * 6 / 2**spec.bits
        arrays = {
            "codes": generator.integers(0, 2**spec.bits, shape, dtype=np.uint8),
            "scale": scale.astype(np.float16),
            "minimum": (-scale * 2**spec.bits / 2).astype(np.float16),
        }
        return EncodedWeight(spec, tuple(shape), arrays)


def _tile_bytes(spec: AffineSpec, columns: int) -> int:
    return spec.groups(columns) * PARAMETER_BYTES + blocks(columns) * VECTOR_BYTES * spec.bits


def _checked(weight: EncodedWeight) -> AffineSpec:
    """The weight's spec, after its arrays are found to be what the header of this file documents."""
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


CODEC = AffineCodec()
