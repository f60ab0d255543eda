"""Dense storage is lossless, in kernel order, and bf16 rounding is exact."""

import numpy as np
import pytest

from moecompress.codecs.bfloat16 import bf16_bits, bf16_values
from moecompress.codecs.dense import CODEC, DenseSpec, dense_weight
from moecompress.codecs.table import nbytes
from moecompress.core.errors import ArtifactError
from moecompress.testing.codec_checks import check_weight
from moecompress.testing.packing_reference import pack_dense


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("shape", [(), (1,), (19,), (4, 1, 3), (16, 5), (17, 5), (1, 1), (48, 33), (2, 3, 4, 5)])
def test_pack_equals_the_reference(dtype, shape):
    weight = CODEC.random(DenseSpec(dtype=dtype), shape, np.random.default_rng(1))
    check_weight(CODEC, weight)
    assert CODEC.pack(weight).tobytes() == pack_dense(weight)


def test_sizes():
    assert nbytes(DenseSpec(dtype="bf16"), (17, 5)) == 2 * 32 * 5
    assert nbytes(DenseSpec(dtype="f32"), (17, 5)) == 4 * 32 * 5
    assert nbytes(DenseSpec(dtype="f32"), (17,)) == 4 * 17
    assert nbytes(DenseSpec(dtype="bf16"), ()) == 2


def test_bf16_rounds_to_nearest_even():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x00000001, 0x7F7FFFFF], np.uint32)
    assert bf16_bits(bits.view(np.float32)).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x0000, 0x7F80]


def test_bf16_keeps_infinities_nan_and_signed_zero():
    values = np.array([np.inf, -np.inf, -0.0, np.nan], np.float32)
    assert bf16_bits(values)[:3].tolist() == [0x7F80, 0xFF80, 0x8000]
    hidden = np.array([0x7F800001], np.uint32).view(np.float32)  # a NaN whose upper half alone would read as infinity
    assert np.isnan(bf16_values(bf16_bits(values)))[3] and np.isnan(bf16_values(bf16_bits(hidden)))[0]


def test_bf16_round_trip_of_every_finite_value():
    every = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    finite = every[np.isfinite(bf16_values(every))]
    np.testing.assert_array_equal(bf16_bits(bf16_values(finite)), finite)


def test_bf16_rounding_matches_distance():
    values = np.random.default_rng(3).standard_normal(10_000).astype(np.float32)
    error = np.abs(bf16_values(bf16_bits(values)) - values)
    assert (error <= np.abs(values) * 2**-8).all() and error.max() > 0


def test_f32_stores_every_bit():
    values = np.random.default_rng(4).standard_normal((33, 7)).astype(np.float32)
    packed = CODEC.pack(dense_weight(values, "f32"))
    again = CODEC.unpack(packed, DenseSpec(dtype="f32"), (33, 7))
    np.testing.assert_array_equal(again.arrays["weight"], values)


def test_float64_and_wrong_shape_are_refused():
    weight = dense_weight(np.ones((2, 3), np.float32), "f32")
    for wrong in (np.ones((2, 3)), np.ones((3, 2), np.float32)):
        with pytest.raises(ArtifactError, match="expected float32"):
            CODEC.pack(type(weight)(weight.spec, weight.shape, {"weight": wrong}))


def test_a_weight_of_another_codec_is_refused():
    from moecompress.codecs.affine import CODEC as AFFINE
    from moecompress.codecs.affine import AffineSpec

    other = AFFINE.random(AffineSpec(bits=2, group_size=32), (2, 2), np.random.default_rng(0))
    with pytest.raises(ArtifactError, match="dense codec was given a weight of codec 'affine'"):
        CODEC.dequantize(other)
