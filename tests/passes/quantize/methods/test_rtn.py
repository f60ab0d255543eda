"""Round to nearest: its error bound, its range, and the weights that are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.table import codec_of
from moecompress.core.errors import SourceError, UsageError
from moecompress.passes.quantize.methods.table import method_named

RTN = method_named("rtn")


def decoded(encoded):
    return torch.from_numpy(codec_of(encoded.spec).dequantize(encoded))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    bits=st.integers(1, 8),
    group_size=st.sampled_from([32, 64, 128]),
    size=st.sampled_from([1e-7, 1e-3, 1.0, 300.0]),
    seed=st.integers(0, 10**6),
)
def test_no_weight_moves_by_more_than_half_a_step(rows, columns, bits, group_size, size, seed):
    weight = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    spec = AffineSpec(bits=bits, group_size=group_size)
    encoded = RTN.quantize(weight, spec)
    codec_of(spec).pack(encoded)
    half = torch.from_numpy(encoded.arrays["scale"].astype(np.float32)).repeat_interleave(group_size, 1) / 2
    error = (decoded(encoded) - weight).abs()
    assert (error <= half[:, :columns] * (1 + 1e-5) + weight.abs().max() * 2e-7).all()


def test_more_bits_and_smaller_groups_lose_less_and_eight_bits_nearly_nothing():
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    loss = {
        (bits, size): float((decoded(RTN.quantize(weight, AffineSpec(bits=bits, group_size=size))) - weight).norm())
        for bits in range(1, 9)
        for size in (32, 64, 128)
    }
    for size in (32, 64, 128):
        assert all(loss[bits, size] > 1.7 * loss[bits + 1, size] for bits in range(1, 8))
    for bits in range(2, 9):
        assert loss[bits, 32] < loss[bits, 64] < loss[bits, 128]
    assert loss[8, 64] < 0.006 * weight.norm()


def test_source_dtypes_give_the_codes_of_their_float32_values():
    weight = torch.randn(8, 64).to(torch.bfloat16)
    spec = AffineSpec(bits=3, group_size=32)
    one, other = RTN.quantize(weight, spec), RTN.quantize(weight.float(), spec)
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def test_many_rows_are_solved_piecewise_with_the_same_result():
    weight = torch.randn(5000, 8)
    spec = AffineSpec(bits=2, group_size=32)
    whole = RTN(weight, spec)
    for first in (0, 2040, 4992):
        piece = RTN(weight[first : first + 8], spec)
        assert torch.equal(whole.codes[first : first + 8], piece.codes)
        assert torch.equal(whole.scale[first : first + 8], piece.scale)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    weight = torch.zeros(4, 32)
    weight[2, 3] = bad
    with pytest.raises(SourceError, match="NaN or infinity"):
        RTN.quantize(weight, AffineSpec(bits=4, group_size=32))


def test_weights_beyond_float16_are_refused_by_name():
    weight = torch.zeros(4, 32)
    weight[0, 0] = -70000.0
    with pytest.raises(SourceError, match="float16, so affine4g32 overflows beyond 65504"):
        RTN.quantize(weight, AffineSpec(bits=4, group_size=32))
    weight[0, 0] = -40000.0
    assert torch.isfinite(decoded(RTN.quantize(weight, AffineSpec(bits=4, group_size=32)))).all()
    with pytest.raises(SourceError, match="32752"):
        RTN.quantize(weight, AffineSpec(bits=1, group_size=32))


@pytest.mark.parametrize("shape", [(8,), (0, 8), (8, 0), (2, 3, 4)])
def test_only_matrices(shape):
    with pytest.raises(UsageError, match="matrices"):
        RTN.quantize(torch.zeros(shape), AffineSpec(bits=4, group_size=32))


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match=r"'gtpq'. Did you mean 'gptq'"):
        method_named("gtpq")
