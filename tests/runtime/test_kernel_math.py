"""exp, silu, inner products and scaled sums: accurate, and the same bits on every path."""

import numpy as np
import pytest

from moecompress.runtime import _native
from moecompress.testing import kernel_reference as reference

PATHS = _native.isa_names()
LENGTHS = (1, 7, 8, 15, 16, 17, 33, 64, 100)


def same_bits(actual, expected):
    np.testing.assert_array_equal(np.asarray(actual).view(np.uint32), np.asarray(expected, np.float32).view(np.uint32))


def vector(length, seed=0):
    generator = np.random.default_rng([seed, length])
    return (generator.normal(size=length) * 10.0 ** generator.uniform(-3, 3, length)).astype(np.float32)


def wide_range():
    finite = np.random.default_rng(0).uniform(-110, 95, 20000).astype(np.float32)
    special = [0, -0.0, 1e-45, -1e-45, 88.72, 88.73, 89, 300, -87.33, -87.34, -103.9, -104.1, -300, np.inf, -np.inf]
    return np.concatenate([finite, np.array(special, np.float32)])


def units_in_last_place(actual, exact):
    rounded = exact.astype(np.float32)
    spacing = np.spacing(np.maximum(np.abs(rounded), np.float32(0))).astype(np.float64)
    return np.abs(actual.astype(np.float64) - exact) / spacing


def test_exp_is_within_a_unit_and_a_half_in_the_last_place():
    x = wide_range()
    with np.errstate(over="ignore"):
        exact = np.exp(x.astype(np.float64))
        fits = exact.astype(np.float32) < np.inf
    actual = _native.exp_shifted(x, isa="scalar")
    assert units_in_last_place(actual[fits], exact[fits]).max() < 1.5
    assert np.isinf(actual[~fits]).all()


def test_exp_keeps_nan_and_its_exact_points():
    actual = _native.exp_shifted(np.array([np.nan, 0, np.inf, -np.inf], np.float32))
    assert np.isnan(actual[0])
    np.testing.assert_array_equal(actual[1:], [1, np.inf, 0])


def test_silu_is_accurate():
    x = wide_range()[:20000]
    exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    actual = _native.silu_multiply(x, np.ones_like(x), isa="scalar")
    zero = x < -88.75  # there exp(-x) is infinite, and silu minus zero instead of at most 3e-37
    divides = x > -88.7
    assert units_in_last_place(actual[divides], exact[divides]).max() < 4
    assert not actual[zero].any()


@pytest.mark.parametrize("path", PATHS)
def test_exp_and_silu_have_the_same_bits_on_every_path(path):
    x = wide_range()
    up = vector(len(x))
    same_bits(_native.exp_shifted(x, 0.25, isa=path), _native.exp_shifted(x, 0.25, isa="scalar"))
    same_bits(_native.silu_multiply(x, up, isa=path), _native.silu_multiply(x, up, isa="scalar"))


@pytest.mark.parametrize("path", PATHS)
def test_short_and_ragged_vectors_have_the_same_bits_as_their_elements(path):
    for length in LENGTHS:
        x, y = vector(length, 1), vector(length, 2)
        alone = [_native.exp_shifted(x[i : i + 1], isa="scalar")[0] for i in range(length)]
        same_bits(_native.exp_shifted(x, isa=path), alone)
        alone = [_native.silu_multiply(x[i : i + 1], y[i : i + 1], isa="scalar")[0] for i in range(length)]
        same_bits(_native.silu_multiply(x, y, isa=path), alone)


@pytest.mark.parametrize("path", PATHS)
def test_dot_follows_the_order_of_sixteen_sums(path):
    for length in (*LENGTHS, 500):
        a, b = vector(length, 3), vector(length, 4)
        same_bits(np.float32(_native.dot(a, b, isa=path)), reference.dot(a, b))
    assert _native.dot(np.zeros(0, np.float32), np.zeros(0, np.float32), isa=path) == 0


@pytest.mark.parametrize("path", PATHS)
def test_dot_keeps_the_sign_of_an_underflowing_sum(path):
    """A product that rounds to minus zero must not be turned into plus zero by the padding of a register."""
    a, b = np.full(17, -1e-30, np.float32), np.full(17, 1e-30, np.float32)
    same_bits(np.float32(_native.dot(a, b, isa=path)), np.float32(-0.0))


@pytest.mark.parametrize("path", PATHS)
def test_add_scaled_rounds_each_element_once(path):
    for length in LENGTHS:
        y, x = vector(length, 5), vector(length, 6)
        factor = np.float32(-0.37)
        same_bits(_native.add_scaled(y, x, factor, isa=path), reference.fused(factor, x, y))


def integer_rows(dtype, length, size):
    limits = np.iinfo(dtype)
    generator = np.random.default_rng([length, size])
    return generator.integers(limits.min, limits.max, (length, size), dtype, endpoint=True)


ROWS = ((1, 1), (3, 20), (32, 64), (5, 80), (2, 131), (9, 256))


@pytest.mark.parametrize("dtype", [np.int16, np.int8])
@pytest.mark.parametrize("path", PATHS)
def test_products_with_rows_of_integers_equal_the_reference(path, dtype):
    for length, size in ROWS:
        rows = integer_rows(dtype, length, size)
        for lines in (1, 3, 4, 6):
            x = vector(lines * size).reshape(lines, size)
            same_bits(_native.row_dots(rows, x, isa=path), reference.row_dots(rows, x))


@pytest.mark.parametrize("dtype", [np.int16, np.int8])
@pytest.mark.parametrize("path", PATHS)
def test_sums_of_rows_of_integers_equal_the_reference(path, dtype):
    for length, size in ROWS:
        rows = integer_rows(dtype, length, size)
        for lines in (1, 3, 4, 6):
            factors, y = vector(lines * length).reshape(lines, length), vector(lines * size).reshape(lines, size)
            same_bits(_native.add_rows(rows, factors, y, isa=path), reference.add_rows(rows, factors, y))


def test_rows_and_vectors_of_different_length_are_refused():
    rows = integer_rows(np.int8, 2, 3)
    with pytest.raises(ValueError, match=r"A matrix of shape \[1, 4\] must have the shape \[1, 3\]"):
        _native.row_dots(rows, np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match=r"A matrix of shape \[1, 3\] must have the shape \[1, 2\]"):
        _native.add_rows(rows, np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))


def test_vectors_of_different_length_are_refused():
    with pytest.raises(ValueError, match="Vectors of 3 and 4 elements must have the same length"):
        _native.dot(vector(3), vector(4))


def test_the_reference_fused_operation_rounds_once():
    """1 + 2^-24 (1 + 2^-30): rounding the float64 sum first would land on the tie and lose the last bit."""
    a, b = np.float32(1 + 2**-15), np.float32(2**-24 * (1 + 2**-15))
    assert reference.fused(a, b, np.float32(1)) == np.float32(1 + 2**-23)
    assert reference.fused(np.float32(2**-60), np.float32(2**-60), np.float32(1)) == 1
