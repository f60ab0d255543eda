"""HQQ: never worse than round to nearest in its own objective, equal to a plain loop, better with outliers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecompress.codecs.affine import AffineSpec
from moecompress.passes.quantize.methods.hqq import HqqOptions
from moecompress.passes.quantize.methods.table import method_named

RTN, HQQ = method_named("rtn"), method_named("hqq")


def heavy_tailed(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    return weight * (1 + 4 * (torch.rand(rows, columns, generator=generator) > 0.97))


def objective(weight, found, spec, norm=0.7):
    """Σ|w − ŵ|^p of every (row, group)."""
    error = (weight - found.values(spec.group_size)).double().abs() ** norm
    pad = -weight.shape[1] % spec.group_size
    return torch.nn.functional.pad(error, (0, pad)).unflatten(1, (-1, spec.group_size)).sum(-1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    columns=st.integers(1, 150),
    bits=st.integers(1, 8),
    group_size=st.sampled_from([32, 64]),
    size=st.sampled_from([1e-6, 0.02, 50.0]),
    seed=st.integers(0, 10**6),
)
def test_never_worse_than_round_to_nearest(columns, bits, group_size, size, seed):
    weight, spec = size * heavy_tailed(9, columns, seed), AffineSpec(bits=bits, group_size=group_size)
    hqq, rtn = (objective(weight, method(weight, spec), spec) for method in (HQQ, RTN))
    assert (hqq <= rtn * (1 + 1e-4) + 1e-12).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_really_improves(bits):
    weight, spec = heavy_tailed(64, 256, 1), AffineSpec(bits=bits, group_size=64)
    hqq, rtn = (objective(weight, method(weight, spec), spec).sum() for method in (HQQ, RTN))
    assert hqq < 0.99 * rtn


def test_the_result_does_not_depend_on_the_size_of_the_weights():
    weight, spec = heavy_tailed(8, 64, 2), AffineSpec(bits=3, group_size=64)
    assert torch.equal(HQQ(weight, spec).codes, HQQ(weight / 1024, spec).codes)


def test_equal_to_a_plain_loop_over_groups():
    """One row and group at a time, as the paper writes it."""
    weight, spec, options = heavy_tailed(6, 96, 3), AffineSpec(bits=2, group_size=32), HqqOptions()
    found = HQQ(weight, spec).values(32)
    for row in range(6):
        for start in range(0, 96, 32):
            w = weight[row, start : start + 32]
            torch.testing.assert_close(found[row, start : start + 32], plain(w, spec, options), rtol=1e-5, atol=1e-6)


def plain(w, spec, options):
    levels = 2**spec.bits - 1
    first = RTN(w[None], spec)
    scale, minimum, beta = first.scale.float().item(), first.minimum.float().item(), options.beta
    best = None
    for _ in range(options.iterations + 1):
        kept = ((w - minimum) / scale).round().clamp(0, levels) * scale + minimum
        error = w - kept
        score = (error.abs() / scale).pow(options.norm).sum().item()
        if best is None or score < best[0]:
            best = (score, kept)
        step = error / scale
        sparse = step.sign() * (step.abs() - step.abs().clamp_min(1e-8) ** (options.norm - 1) / beta).clamp_min(0)
        codes = ((w - minimum) / scale).round().clamp(0, levels)
        minimum = (w - sparse * scale - codes * scale).mean().half().float().item()
        beta *= options.growth
    return best[1]
