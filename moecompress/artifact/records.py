"""The record of one expert: a 64-byte header, then gate, up and down as the kernels read them. FORMAT.md §4.

A record is a multiple of 4096 bytes and lies on a multiple of 4096, so one direct read fetches an expert. The header
says whose record it is, so that a wrong offset is found out; its crc32 covers the payload.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from moecompress.artifact.container import LINE, PAGE, aligned
from moecompress.artifact.manifest import StoredExpert, StoredTensor
from moecompress.codecs.base import CodecSpec, EncodedWeight
from moecompress.codecs.table import codec_of, nbytes
from moecompress.core.errors import IntegrityError
from moecompress.core.types import PROJECTIONS, Projection

MAGIC = b"MCXR"
RECORD_VERSION = 1
HEADER = struct.Struct("<4sHHIIQI36x")

Planned = tuple[CodecSpec, tuple[int, ...]]


class RecordHeader(NamedTuple):
    """The fields of a record's header, in order."""

    magic: bytes
    version: int
    projections: int
    layer: int
    expert: int
    payload_bytes: int
    crc32: int


def place_record(planned: Mapping[Projection, Planned], offset: int) -> StoredExpert:
    """The table entry of a record at file offset `offset`: its length, and where each matrix lies inside."""
    projections: dict[Projection, StoredTensor] = {}
    position = HEADER.size
    for name in PROJECTIONS:
        if name in planned:
            spec, shape = planned[name]
            size = nbytes(spec, shape)
            projections[name] = StoredTensor(codec=spec.key, shape=shape, offset=position, bytes=size)
            position = aligned(position + size, LINE)
    return StoredExpert(offset=offset, bytes=aligned(position, PAGE), projections=projections)


def payload_bytes(entry: StoredExpert) -> int:
    """Bytes from the end of the header to the end of the last matrix."""
    return max(tensor.offset + tensor.bytes for tensor in entry.projections.values()) - HEADER.size


def pack_record(layer: int, expert: int, entry: StoredExpert, weights: Mapping[Projection, EncodedWeight]) -> bytearray:
    """The `entry.bytes` bytes of a record."""
    record = bytearray(entry.bytes)
    view = memoryview(record)
    for name, tensor in entry.projections.items():
        packed = codec_of(weights[name].spec).pack(weights[name])
        view[tensor.offset : tensor.offset + tensor.bytes] = packed.data
    length = payload_bytes(entry)
    crc32 = zlib.crc32(view[HEADER.size : HEADER.size + length])
    HEADER.pack_into(record, 0, MAGIC, RECORD_VERSION, len(entry.projections), layer, expert, length, crc32)
    return record


def check_record_header(data: bytearray, layer: int, expert: int, entry: StoredExpert, where: str) -> int:
    """The payload's crc32. Raises IntegrityError unless the header is that of this expert's record."""
    found = RecordHeader(*HEADER.unpack_from(data))
    expected = RecordHeader(
        MAGIC, RECORD_VERSION, len(entry.projections), layer, expert, payload_bytes(entry), found.crc32
    )
    for name, value, wanted in zip(RecordHeader._fields, found, expected, strict=True):
        if value != wanted:
            raise IntegrityError(
                f"{where}: the record at byte {entry.offset} should be expert {expert} of layer {layer}, "
                f"but its header says {name} = {value!r}, expected {wanted!r}. Make the artifact again."
            )
    return found.crc32


def check_payload(crc32: int, expected: int, layer: int, expert: int, where: str) -> None:
    """Raise IntegrityError unless the payload's crc32 is the header's."""
    if crc32 != expected:
        raise IntegrityError(
            f"{where}: the weights of expert {expert} of layer {layer} are damaged: crc32 is {crc32:08x}, "
            f"expected {expected:08x}. Copy the artifact again."
        )
