"""The layout of an expert record, byte by byte."""

import struct
import zlib

import numpy as np
import pytest

from moecompress.artifact.records import check_record_header, pack_record, payload_bytes, place_record
from moecompress.codecs.affine import CODEC as AFFINE
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.dense import dense_weight
from moecompress.core.errors import IntegrityError
from moecompress.testing.artifacts import random_experts

WEIGHTS = random_experts(1)[1]
ENTRY = place_record({name: (weight.spec, weight.shape) for name, weight in WEIGHTS.items()}, 8192)


def test_record_is_header_then_matrices():
    record = bytes(pack_record(5, 9, ENTRY, WEIGHTS))
    assert len(record) == ENTRY.bytes and ENTRY.bytes % 4096 == 0 and ENTRY.offset == 8192
    payload = b"".join(AFFINE.pack(WEIGHTS[name]).tobytes() for name in ("gate", "up", "down"))
    assert record[:4] == b"MCXR"
    assert struct.unpack("<HHIIQI", record[4:28]) == (1, 3, 5, 9, len(payload), zlib.crc32(payload))
    assert record[28:64] == bytes(36)
    assert record[64:] == payload.ljust(ENTRY.bytes - 64, b"\0")


def test_matrices_start_on_lines_and_the_gaps_are_in_the_crc():
    narrow = {name: dense_weight(np.ones((16, 3), np.float32)) for name in ("gate", "up", "down")}
    entry = place_record({name: (weight.spec, weight.shape) for name, weight in narrow.items()}, 0)
    assert [tensor.offset for tensor in entry.projections.values()] == [64, 192, 320]
    assert [tensor.bytes for tensor in entry.projections.values()] == [96, 96, 96]
    assert payload_bytes(entry) == 320 + 96 - 64 and entry.bytes == 4096


def test_experts_without_a_gate_have_two_matrices():
    two = {name: WEIGHTS[name] for name in ("down", "up")}
    entry = place_record({name: (weight.spec, weight.shape) for name, weight in two.items()}, 0)
    record = pack_record(0, 0, entry, two)
    assert list(entry.projections) == ["up", "down"] and record[6] == 2
    check_record_header(record, 0, 0, entry, "x")


def test_a_record_just_over_a_page_takes_two():
    spec = AffineSpec(bits=8, group_size=32)
    shapes = {"gate": (16, 96), "up": (16, 96), "down": (96, 16)}
    sizes = {name: AFFINE.nbytes(spec, shape) for name, shape in shapes.items()}
    entry = place_record({name: (spec, shape) for name, shape in shapes.items()}, 0)
    assert sum(sizes.values()) + 64 > 4096 and entry.bytes == 8192


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (0, b"MCXS", "magic"),
        (4, b"\2\0", "version"),
        (6, b"\2\0", "projections"),
        (8, b"\6\0\0\0", "layer"),
        (12, b"\0\0\0\0", "expert"),
        (16, b"\1\0\0\0\0\0\0\0", "payload_bytes"),
        (16, b"\xff" * 8, "payload_bytes"),
    ],
)
def test_a_header_that_disagrees_with_the_table_is_refused(offset, value, field):
    record = pack_record(5, 9, ENTRY, WEIGHTS)
    record[offset : offset + len(value)] = value
    with pytest.raises(IntegrityError, match=f"expert 9 of layer 5.*{field} ="):
        check_record_header(record, 5, 9, ENTRY, "experts-00005.safetensors")
