"""What affine codes stand for, their exact sizes, and what is refused."""

import numpy as np
import pytest

from moecompress.codecs.affine import CODEC, AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.table import effective_bits, nbytes
from moecompress.core.errors import ArtifactError


def weight(bits=4, group_size=32, shape=(2, 40), **changes):
    spec = AffineSpec(bits=bits, group_size=group_size)
    groups = spec.groups(shape[1])
    arrays = {
        "codes": np.zeros(shape, np.uint8),
        "scale": np.ones((shape[0], groups), np.float16),
        "minimum": np.zeros((shape[0], groups), np.float16),
    }
    return EncodedWeight(spec, shape, {**arrays, **changes})


def test_dequantize_is_scale_times_code_plus_minimum_rounded_twice():
    generator = np.random.default_rng(5)
    sample = CODEC.random(AffineSpec(bits=7, group_size=64), (9, 130), generator)
    values = CODEC.dequantize(sample)
    for row, column in ((0, 0), (8, 129), (4, 63), (4, 64), (7, 128)):
        scale = np.float32(sample.arrays["scale"][row, column // 64])
        minimum = np.float32(sample.arrays["minimum"][row, column // 64])
        product = np.float32(scale * np.float32(sample.arrays["codes"][row, column]))
        assert values[row, column] == np.float32(product + minimum)


def test_bytes_and_effective_bits_of_whole_tiles():
    assert nbytes(AffineSpec(bits=4, group_size=64), (256, 256)) == 256 * 256 // 2 + 256 * 4 * 4
    assert effective_bits(AffineSpec(bits=4, group_size=64), (256, 256)) == 4.5
    assert effective_bits(AffineSpec(bits=1, group_size=128), (512, 1024)) == 1.25
    assert effective_bits(AffineSpec(bits=8, group_size=32), (16, 32)) == 9.0


def test_bytes_of_a_ragged_matrix_count_padding():
    spec = AffineSpec(bits=3, group_size=64)
    assert nbytes(spec, (17, 65)) == 2 * (2 * 64 + 3 * 64 * 3)
    assert CODEC.pack(weight(3, 64, (17, 65))).size == 2 * (2 * 64 + 3 * 64 * 3)


def test_a_code_too_large_for_its_bits_is_refused():
    codes = np.zeros((2, 40), np.uint8)
    codes[1, 39] = 16
    with pytest.raises(ArtifactError, match="code 16; 4 bits hold 0 to 15"):
        CODEC.pack(weight(codes=codes))


@pytest.mark.parametrize("name", ["scale", "minimum"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_refused(name, value):
    array = np.full((2, 2), value, np.float16)
    with pytest.raises(ArtifactError, match=f"{name} that is not finite"):
        CODEC.pack(weight(**{name: array}))


@pytest.mark.parametrize(
    "changes",
    [
        {"codes": np.zeros((2, 41), np.uint8)},
        {"codes": np.zeros((2, 40), np.int8)},
        {"scale": np.ones((2, 1), np.float16)},
        {"minimum": np.ones((2, 2), np.float32)},
        {"zero": np.ones((2, 2), np.float16)},
    ],
)
def test_arrays_of_another_shape_type_or_name_are_refused(changes):
    with pytest.raises(ArtifactError, match=r"expected"):
        CODEC.pack(weight(**changes))


def test_a_weight_of_another_codec_is_refused():
    from moecompress.codecs.dense import dense_weight

    with pytest.raises(ArtifactError, match="affine codec was given a weight of codec 'dense'"):
        CODEC.pack(dense_weight(np.ones((2, 2), np.float32)))


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4), (), (0, 4), (4, -1)])
def test_only_matrices_have_a_size(shape):
    with pytest.raises(ArtifactError, match="affine4g32"):
        nbytes(AffineSpec(bits=4, group_size=32), shape)
