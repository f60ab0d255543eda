"""The vectorised packing against the element-by-element reference and against golden bytes."""

import json
from pathlib import Path

import numpy as np
import pytest

from moecompress.codecs.affine import CODEC as AFFINE
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.packing import PLANES, pack_codes, padded, unpack_codes
from moecompress.testing.packing_reference import pack_affine, pack_block

GOLDEN = Path(__file__).parents[1] / "golden" / "affine_packed.json"
RAGGED = [(16, 32), (1, 1), (17, 33), (15, 129), (33, 100), (16, 160), (5, 31), (32, 257)]


def golden_weight(bits):
    """Shape [18, 40], group 32: two tiles, a short last group; every number follows from its indices."""
    row, column = np.indices((18, 40))
    codes = ((7 * row + 13 * column + row * column // 5) % 2**bits).astype(np.uint8)
    scale = ((np.arange(36) + 1) / 64).reshape(18, 2).astype(np.float16)
    minimum = (-(np.arange(36) + 3) / 32).reshape(18, 2).astype(np.float16)
    spec = AffineSpec(bits=bits, group_size=32)
    return EncodedWeight(spec, (18, 40), {"codes": codes, "scale": scale, "minimum": minimum})


@pytest.mark.parametrize("shape", RAGGED, ids=str)
@pytest.mark.parametrize("bits", range(1, 9))
def test_pack_equals_the_reference(bits, shape):
    for group_size in (32, 64, 128):
        spec = AffineSpec(bits=bits, group_size=group_size)
        weight = AFFINE.random(spec, shape, np.random.default_rng(bits))
        assert AFFINE.pack(weight).tobytes() == pack_affine(weight, bits, group_size)


@pytest.mark.parametrize("bits", range(1, 9))
def test_golden_bytes(bits):
    stored = bytes.fromhex(json.loads(GOLDEN.read_text())[f"affine{bits}g32"])
    weight = golden_weight(bits)
    assert AFFINE.pack(weight).tobytes() == stored
    read = AFFINE.unpack(np.frombuffer(stored, np.uint8), weight.spec, weight.shape)
    for name, array in weight.arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array)


def test_one_code_lands_where_the_format_says():
    codes = np.zeros((16, 32), np.uint8)
    codes[3, 4 * 6 + 1] = 0b101  # quad 6, lane 1: low digits in vector 0 at bit 6, high digit in its plane at bit 6
    packed = pack_codes(codes, 3)[0, 0]
    assert {int(index): int(packed[index]) for index in packed.nonzero()[0]} == {4 * 3 + 1: 1 << 6, 128 + 13: 1 << 6}


def test_planes_cover_the_bits_low_first():
    assert all(sum(widths) == bits and list(widths) == sorted(widths)[::-1] for bits, widths in PLANES.items())


@pytest.mark.parametrize("bits", range(1, 9))
def test_padding_is_zero_and_unpacking_ignores_it(bits):
    codes = np.full((3, 5), 2**bits - 1, np.uint8)
    packed = pack_codes(codes, bits)
    assert packed.tobytes() == pack_block(codes, 0, 0, bits)
    full = unpack_codes(packed, bits)
    np.testing.assert_array_equal(full, padded(codes, (16, 32)))
    np.testing.assert_array_equal(unpack_codes(np.full_like(packed, 255), bits), np.full((16, 32), 2**bits - 1))


def test_a_code_matrix_may_be_a_transposed_view():
    codes = np.random.default_rng(0).integers(0, 16, (64, 32), dtype=np.uint8)
    np.testing.assert_array_equal(pack_codes(codes.T, 4), pack_codes(codes.T.copy(), 4))
