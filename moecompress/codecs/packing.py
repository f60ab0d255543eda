"""The kernel order of small integers: tiles of 16 rows, blocks of 32 columns, bit planes of whole 64-byte vectors.

A plane of width p holds a block's p-bit digits in p vectors of 64 bytes. Byte `4·row + i` of vector v carries, at bit
position j·p, the digit of column `4·(v + j·p) + i`. One load, one shift and one mask thus give 16 rows × 4 columns in
the operand order of the dot-product instructions. FORMAT.md §3 draws it; `testing/packing_reference.py` spells it out
element by element. Here the four columns of a quad travel as one uint32, so every step moves whole arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moecompress.codecs.base import Bytes, CodecSpec, EncodedWeight
from moecompress.codecs.tiles import BLOCK_COLUMNS, QUADS, TILE_ROWS, VECTOR_BYTES, blocks, tiles
from moecompress.core.errors import ArtifactError

PLANES: dict[int, tuple[int, ...]] = {
    1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,),
}  # fmt: skip

Words = npt.NDArray[np.uint32]


def padded(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """`array` extended with zeros at the end of each axis to `shape`; contiguous."""
    if array.shape == shape:
        return np.ascontiguousarray(array)
    out = np.zeros(shape, array.dtype)
    out[tuple(slice(size) for size in array.shape)] = array
    return out


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Codes `[out, in]`, each below 2**bits, as `[tiles, blocks, 64·bits]` bytes; missing rows and columns are zero."""
    tile_count, block_count = tiles(codes.shape[0]), blocks(codes.shape[1])
    full = padded(codes, (tile_count * TILE_ROWS, block_count * BLOCK_COLUMNS))
    rows_first = full.view(np.uint32).reshape(tile_count, TILE_ROWS, block_count, QUADS)
    quads = np.ascontiguousarray(rows_first.transpose(0, 2, 3, 1))
    planes, shift = [], 0
    for width in PLANES[bits]:
        planes.append(_pack_plane(_digits(quads, shift, width), width))
        shift += width
    packed = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
    return packed.view(np.uint8).reshape(tile_count, block_count, VECTOR_BYTES * bits)


def unpack_codes(packed: Bytes, bits: int) -> Bytes:
    """The inverse: `[tiles, blocks, 64·bits]` bytes to codes `[tiles·16, blocks·32]`, padding included."""
    tile_count, block_count, _ = packed.shape
    words = np.ascontiguousarray(packed).view(np.uint32).reshape(tile_count, block_count, bits, TILE_ROWS)
    quads = np.zeros((tile_count, block_count, QUADS, TILE_ROWS), np.uint32)
    shift = 0
    for width in PLANES[bits]:
        plane = words[:, :, shift : shift + width]
        quads |= _unpack_plane(plane, width) << np.uint32(shift)
        shift += width
    rows_first = np.ascontiguousarray(quads.transpose(0, 3, 1, 2))
    return rows_first.view(np.uint8).reshape(tile_count * TILE_ROWS, block_count * BLOCK_COLUMNS)


def _digits(words: Words, shift: int, width: int) -> Words:
    """Bits `shift … shift+width-1` of every byte, moved to the bottom of the byte."""
    mask = np.uint32(((1 << width) - 1) * 0x01010101)
    return (words >> np.uint32(shift)) & mask


def _pack_plane(digits: Words, width: int) -> Words:
    """Digits `[tiles, blocks, 8, 16]` as `[tiles, blocks, width, 16]`: quads v, v+width, … share vector v."""
    vectors = digits[:, :, :width].copy()
    for position in range(width, QUADS, width):
        vectors |= digits[:, :, position : position + width] << np.uint32(position)
    return vectors


def _unpack_plane(vectors: Words, width: int) -> Words:
    """The inverse of `_pack_plane`: `[tiles, blocks, width, 16]` to `[tiles, blocks, 8, 16]`."""
    return np.concatenate([_digits(vectors, position, width) for position in range(0, QUADS, width)], axis=2)


def check_arrays(weight: EncodedWeight, expected: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
    """Raise ArtifactError unless the weight has exactly the expected arrays: name → (shape, dtype)."""
    if set(weight.arrays) != set(expected):
        raise ArtifactError(
            f"A weight of codec {weight.spec.key} has the arrays {sorted(weight.arrays)}; expected {sorted(expected)}."
        )
    for name, (shape, dtype) in expected.items():
        array = weight.arrays[name]
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise ArtifactError(
                f"Array {name!r} of a {weight.spec.key} weight of shape {list(weight.shape)} is {array.dtype} "
                f"{list(array.shape)}; expected {np.dtype(dtype)} {list(shape)}."
            )


def check_length(data: Bytes, spec: CodecSpec, shape: tuple[int, ...], nbytes: int) -> Bytes:
    """`data` as contiguous bytes. Raises ArtifactError unless it is uint8 of exactly `nbytes` bytes."""
    if data.dtype != np.uint8 or data.ndim != 1 or data.size != nbytes:
        raise ArtifactError(
            f"A packed {spec.key} weight of shape {list(shape)} has {nbytes} bytes; "
            f"got {data.dtype} of shape {list(data.shape)}. The file is truncated or its table is wrong."
        )
    return np.ascontiguousarray(data)
