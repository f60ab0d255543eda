"""Packed matrix times activations: every path equals the numpy reference bit for bit, on any number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest

from moecompress.codecs.affine import CODEC, AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.dense import DenseSpec, dense_weight
from moecompress.codecs.table import codec_of
from moecompress.runtime import _native
from moecompress.testing import kernel_reference as reference

PATHS = _native.isa_names()
TOKENS = (1, 3, 8, 17)
SHAPES = ((16, 32), (40, 100), (5, 130), (33, 256))


def arguments(weight):
    """The kernel's description of a weight and its packed bytes."""
    packed = codec_of(weight.spec).pack(weight)
    if isinstance(weight.spec, DenseSpec):
        return f"dense_{weight.spec.dtype}", 0, 0, *weight.shape, packed
    return "affine", weight.spec.bits, weight.spec.group_size, *weight.shape, packed


def affine_weight(bits, group_size, shape, seed=0):
    """Random codes, with scales and minima of both signs and very different sizes."""
    generator = np.random.default_rng([seed, bits, group_size, *shape])
    parameters = (shape[0], -(-shape[1] // group_size))
    size = 10.0 ** generator.uniform(-4, 1, parameters)
    arrays = {
        "codes": generator.integers(0, 2**bits, shape, dtype=np.uint8),
        "scale": (size * generator.choice([-1, 1], parameters)).astype(np.float16),
        "minimum": (size * generator.normal(size=parameters) * 2**bits).astype(np.float16),
    }
    return EncodedWeight(AffineSpec(bits=bits, group_size=group_size), shape, arrays)


def activations(tokens, columns, seed=0):
    generator = np.random.default_rng([seed, tokens, columns])
    return (generator.normal(size=(tokens, columns)) * 10.0 ** generator.uniform(-3, 3, (tokens, 1))).astype(np.float32)


def same_bits(actual, expected):
    np.testing.assert_array_equal(np.asarray(actual).view(np.uint32), np.asarray(expected, np.float32).view(np.uint32))


def assert_all_paths_equal(weight, x, expected):
    described = arguments(weight)
    for path in PATHS:
        for threads in (1, 2):
            same_bits(_native.matmul(*described, x, isa=path, threads=threads), expected)


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", range(1, 9))
def test_affine_equals_the_reference_on_every_path(bits, group_size):
    for shape in SHAPES:
        weight = affine_weight(bits, group_size, shape)
        x = activations(max(TOKENS), shape[1])
        expected = reference.affine_matmul(weight, x)
        for tokens in TOKENS:
            assert_all_paths_equal(weight, x[:tokens], expected[:tokens])


@pytest.mark.parametrize("bits", range(1, 9))
def test_any_number_of_tokens_has_the_bits_of_each_alone(bits):
    """1 to 40 tokens, and more than are worked on together, of random ragged shapes and every group size."""
    generator = np.random.default_rng([7, bits])
    for tokens in (*range(1, 41), 64, 65, 131):
        shape = tuple(int(side) for side in generator.integers(1, (70, 300)))
        weight = affine_weight(bits, int(generator.choice([32, 64, 128])), shape, seed=tokens)
        described, x = arguments(weight), activations(tokens, shape[1])
        alone = [_native.matmul(*described, x[i : i + 1], isa="scalar")[0] for i in range(tokens)]
        for path in PATHS:
            same_bits(_native.matmul(*described, x, isa=path), alone)


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("shape", [(16, 4), (5, 1), (40, 103), (33, 66)])
def test_dense_equals_the_reference_on_every_path(dtype, shape):
    generator = np.random.default_rng(shape)
    weight = dense_weight(generator.normal(size=shape).astype(np.float32), dtype)
    x = activations(max(TOKENS), shape[1])
    expected = reference.dense_matmul(weight, x)
    for tokens in TOKENS:
        assert_all_paths_equal(weight, x[:tokens], expected[:tokens])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_extreme_codes_and_activations_do_not_overflow(bits):
    """All codes at their largest against all activations at either limit: the bounds the 16-bit sums rely on."""
    shape = (16, 64)
    arrays = {
        "codes": np.full(shape, 2**bits - 1, np.uint8),
        "scale": np.full((16, 2), 0.5, np.float16),
        "minimum": np.full((16, 2), -3, np.float16),
    }
    weight = EncodedWeight(AffineSpec(bits=bits, group_size=32), shape, arrays)
    limit, low_plane_at_its_end = np.float32(32512), np.float32(-32384)  # the second is 256 * -126 - 128
    rows = [np.full(64, limit), np.full(64, -limit), np.tile([limit, -limit], 32), np.full(64, low_plane_at_its_end)]
    x = np.array(rows, np.float32)
    x[3, ::32] = limit
    integers = reference.quantize_activations(x)
    assert integers.low.min() == -128 and integers.high.min() == -127
    assert_all_paths_equal(weight, x, reference.affine_matmul(weight, x))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_huge_and_subnormal_activations(bits):
    weight = affine_weight(bits, 64, (24, 96))
    tiny = np.float32(1e-45)
    rows = [0, -0.0, 3e38, -3e38, 1e-38, tiny, tiny * 16255, tiny * 40000, np.finfo(np.float32).max]
    x = np.array([np.full(96, value, np.float32) * (1 - np.arange(96) % 3) for value in rows], np.float32)
    with np.errstate(all="ignore"):
        expected = reference.affine_matmul(weight, x)
    assert not expected[:2].any()
    assert_all_paths_equal(weight, x, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_activation_that_is_not_finite_makes_its_token_nan_and_no_other(value):
    weight = affine_weight(4, 32, (16, 100))
    x = activations(3, 100)
    clean = reference.affine_matmul(weight, x)
    x[1, 70] = value
    for path in PATHS:
        y = _native.matmul(*arguments(weight), x, isa=path)
        assert np.isnan(y[1]).all()
        same_bits(y[[0, 2]], clean[[0, 2]])


def test_quantized_activations_equal_the_reference_and_lose_at_most_half_a_step():
    x = activations(5, 101)
    x[1, 32:64] = 0
    x[2, :32] = np.linspace(-32512, 32512, 32) + 0.5  # ties of the rounding
    expected = reference.quantize_activations(x)
    restored = (expected.integers * expected.scale[:, :, None]).reshape(5, -1)[:, :101]
    step = np.repeat(expected.scale, 32, axis=1)[:, :101]
    assert (np.abs(restored - x) <= step * np.float32(0.501)).all()
    for path in PATHS:
        high, low, scale, total = _native.quantize_activations(x, isa=path)
        np.testing.assert_array_equal(high, expected.high)
        np.testing.assert_array_equal(low, expected.low)
        np.testing.assert_array_equal(total, expected.sum)
        same_bits(scale, expected.scale)


@pytest.mark.parametrize("bits", range(1, 9))
def test_affine_product_is_close_to_the_dequantised_one(bits):
    weight = CODEC.random(AffineSpec(bits=bits, group_size=64), (48, 512), np.random.default_rng(bits))
    x = np.random.default_rng(1).normal(size=(4, 512)).astype(np.float32)
    exact = x.astype(np.float64) @ codec_of(weight.spec).dequantize(weight).astype(np.float64).T
    error = np.abs(_native.matmul(*arguments(weight), x) - exact)
    assert error.max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("bits", range(1, 9))
def test_rows_of_an_affine_weight_are_dequantised_exactly(bits):
    for group_size, shape in ((32, (17, 33)), (64, (16, 100)), (128, (40, 130))):
        weight = affine_weight(bits, group_size, shape)
        expected = codec_of(weight.spec).dequantize(weight)
        for row in range(shape[0]):
            same_bits(_native.dequantize_row(*arguments(weight), row), expected[row])


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_rows_of_a_dense_weight_are_read_exactly(dtype):
    values = np.random.default_rng(3).normal(size=(19, 7)).astype(np.float32)
    weight = dense_weight(values, dtype)
    expected = codec_of(weight.spec).dequantize(weight)
    for row in range(19):
        same_bits(_native.dequantize_row(*arguments(weight), row), expected[row])


def test_every_finite_half_is_converted_exactly_by_every_path():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 16).T.copy()
    shape = (16, halves.shape[1] * 32)
    arrays = {"codes": np.zeros(shape, np.uint8), "scale": halves, "minimum": halves[:, ::-1].copy()}
    weight = EncodedWeight(AffineSpec(bits=1, group_size=32), shape, arrays)
    described = arguments(weight)
    for row in (0, 15):
        values = _native.dequantize_row(*described, row)[::32]
        np.testing.assert_array_equal(values, arrays["minimum"][row].astype(np.float32))
    weight.arrays["codes"][:] = np.random.default_rng(0).integers(0, 2, shape)
    x = activations(1, shape[1])
    first = _native.matmul(*arguments(weight), x, isa="scalar")
    for path in PATHS:
        same_bits(_native.matmul(*arguments(weight), x, isa=path), first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "ternary"}, "Codec 'ternary' is unknown"),
        ({"bits": 9}, "Affine codes of 9 bits are unknown; allowed are 1 to 8"),
        ({"group_size": 48}, "Affine group size 48 is unknown"),
        ({"rows": 0}, r"shape \[0, 64\] cannot be multiplied"),
        ({"rows": 17}, "takes 1152 bytes, but 576 were given"),
        ({"columns": 63, "rows": 16}, "Activations of 64 columns do not fit a matrix of 63 columns"),
        ({"isa": "avx1024"}, "Instruction set 'avx1024' is unknown; this machine runs scalar"),
        ({"threads": 0}, "A pool of 0 threads cannot be made; allowed are 1 to 256"),
    ],
)
def test_a_bad_request_is_refused_with_the_reason(change, message):
    weight = affine_weight(4, 64, (16, 64))
    names = ("codec", "bits", "group_size", "rows", "columns", "packed")
    request = dict(zip(names, arguments(weight), strict=True)) | {"x": activations(1, 64)} | change
    with pytest.raises(ValueError, match=message):
        _native.matmul(**request)


def isa_name_in_a_new_process(value):
    code = "from moecompress.runtime import _native; print(_native.isa_name())"
    environment = {**os.environ, "MOECOMPRESS_ISA": value}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_the_environment_chooses_the_path():
    for path in PATHS:
        assert isa_name_in_a_new_process(path).stdout.strip() == path
    assert isa_name_in_a_new_process("").stdout.strip() == PATHS[-1]


def test_an_unknown_path_in_the_environment_is_an_error_that_names_the_known_ones():
    result = isa_name_in_a_new_process("sse9")
    assert result.returncode != 0
    assert "MOECOMPRESS_ISA cannot be followed. Instruction set 'sse9' is unknown" in result.stderr
    assert "this machine runs " + ", ".join(PATHS) in result.stderr


def test_the_report_names_every_path_with_the_reason_against_it():
    rows = {row["name"]: row for row in _native.isa_report()}
    assert [name for name, row in rows.items() if row["supported"]] == PATHS
    for row in rows.values():
        assert row["passed"] == (row["refusal"] == "")
        assert row["supported"] or not row["passed"]
    assert [name for name, row in rows.items() if row["chosen"]] == [_native.isa_name()]
    assert rows["scalar"]["passed"]


def test_a_path_this_processor_lacks_is_refused_with_what_is_missing():
    for row in _native.isa_report():
        if not row["supported"]:
            result = isa_name_in_a_new_process(row["name"])
            assert f"Instruction set '{row['name']}' cannot be used: {row['refusal']}." in result.stderr
