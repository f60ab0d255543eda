"""GPTQ: equal to the classical algorithm, better than rounding, sound with few, dead, singular or absurd Hessians."""

import pytest
import torch

from moecompress.codecs.affine import AffineSpec
from moecompress.core.errors import CalibrationError
from moecompress.passes.quantize.methods._clip import best_grid
from moecompress.passes.quantize.methods._descend import descend
from moecompress.passes.quantize.methods._factor import factorize, normalized
from moecompress.passes.quantize.methods._grid import covering, nearest
from moecompress.passes.quantize.methods._propagate import propagate
from moecompress.passes.quantize.methods._refit import refit
from moecompress.passes.quantize.methods.gptq import GptqOptions
from moecompress.passes.quantize.methods.table import method_named

RTN, GPTQ = method_named("rtn"), method_named("gptq")
PLAIN = GptqOptions(clip_search=False, refit=False, sweeps=0, damping=0.01)
CLIPPED = PLAIN.model_copy(update={"clip_search": True})
REFITTED = CLIPPED.model_copy(update={"refit": True})


def problem(seed=0, rows=48, columns=128, tokens=1024):
    """Weights and inputs with power-law spectrum and a mean, as activations have."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(columns, columns, generator=generator)).Q
    scales = torch.arange(1, columns + 1) ** -0.7
    inputs = (torch.randn(tokens, columns, generator=generator) * scales + 0.2 * scales[:1]) @ basis
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / tokens


def row_errors(weight, values, hessian):
    errors = (weight - values).double()
    return ((errors @ hessian.double()) * errors).sum(1)


def loss(weight, found, spec, hessian):
    return float(row_errors(weight, found.values(spec.group_size), hessian).sum() ** 0.5)


def classical(weight, hessian, spec, damping, fit):
    """GPTQ as the paper writes it: the Cholesky factor of the inverse Hessian, one column at a time, in float64."""
    weight, columns, levels = weight.double().clone(), weight.shape[1], 2**spec.bits - 1
    damped = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(columns)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    codes = torch.empty_like(weight)
    for column in range(columns):
        if column % spec.group_size == 0:
            stop = min(column + spec.group_size, columns)
            strength = 1 / upper.diagonal()[column:stop] ** 2
            grid = fit(weight[:, column:stop].T.float().contiguous(), strength.float(), levels)
            scale, minimum = grid.scale.double(), grid.minimum.double()
        codes[:, column] = ((weight[:, column] - minimum) / scale).round().clamp(0, levels)
        error = (weight[:, column] - codes[:, column] * scale - minimum) / upper[column, column]
        weight[:, column:] -= error[:, None] * upper[column, column:]
    return codes


def full_range(values, strength, levels):
    return covering(values.amin(0), values.amax(0), levels)


@pytest.mark.parametrize(("bits", "group_size", "columns"), [(2, 32, 96), (3, 64, 128), (4, 32, 70), (8, 64, 64)])
@pytest.mark.parametrize("clip", [False, True])
def test_equal_to_the_classical_algorithm(bits, group_size, columns, clip):
    weight, hessian = problem(bits, rows=24, columns=columns)
    spec = AffineSpec(bits=bits, group_size=group_size)
    found = GPTQ(weight, spec, hessian, CLIPPED if clip else PLAIN)
    expected = classical(weight, hessian, spec, 0.01, best_grid if clip else full_range)
    assert torch.equal(found.codes, expected.to(torch.uint8))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_part_brings_what_it_should(bits):
    """Ratios of METHODS' synthetic table: propagation halves the error, clipping matters most at 2 bits, refit adds."""
    spec = AffineSpec(bits=bits, group_size=64)
    totals = dict.fromkeys(("rtn", "plain", "clipped", "refitted", "all"), 0.0)
    for seed in range(2):
        weight, hessian = problem(seed, rows=64, columns=192, tokens=4096)
        totals["rtn"] += loss(weight, RTN(weight, spec), spec, hessian)
        for name, options in (("plain", PLAIN), ("clipped", CLIPPED), ("refitted", REFITTED)):
            totals[name] += loss(weight, GPTQ(weight, spec, hessian, options), spec, hessian)
        totals["all"] += loss(weight, GPTQ(weight, spec, hessian, GptqOptions(damping=0.01)), spec, hessian)
    assert totals["plain"] < 0.7 * totals["rtn"]
    assert totals["clipped"] < (0.85 if bits == 2 else 0.98) * totals["plain"]
    assert totals["refitted"] < 0.99 * totals["clipped"]
    assert totals["all"] < 1.005 * totals["refitted"]


def test_eight_bits_lose_almost_nothing():
    weight, hessian = problem()
    spec = AffineSpec(bits=8, group_size=64)
    assert loss(weight, GPTQ(weight, spec, hessian), spec, hessian) < 0.004 * loss(weight, zeros(weight), spec, hessian)


def zeros(weight):
    class Nothing:
        def values(self, group_size):
            return torch.zeros_like(weight)

    return Nothing()


HESSIANS = {
    "usual": lambda columns: problem(5, columns=columns)[1],
    "identity": torch.eye,
    "one direction": lambda columns: torch.ones(columns, columns),
    "few tokens": lambda columns: problem(6, columns=columns, tokens=3)[1],
    "dead columns": lambda columns: masked(problem(7, columns=columns)[1]),
    "outlier": lambda columns: (
        problem(8, columns=columns)[1] + 1e6 * torch.eye(columns)[3][:, None] * torch.eye(columns)[3]
    ),
}


def masked(hessian):
    alive = (torch.arange(len(hessian)) % 3 > 0).float()
    return hessian * alive * alive[:, None]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", HESSIANS)
def test_refit_and_descent_never_raise_a_rows_error(bits, kind):
    weight, hessian = problem(bits, rows=150, columns=100)[0], HESSIANS[kind](100)
    levels, columns, double = 2**bits - 1, weight.t().contiguous(), normalized(hessian)
    start = nearest(columns, 64, levels, lambda values, part: covering(values.amin(0), values.amax(0), levels))
    propagated = propagate(columns, factorize(double, 0.1), levels, 64, best_grid)
    for solution in (start, propagated):
        before = row_errors(weight, solution.values().t(), double)
        refitted = row_errors(weight, refit(columns, solution, double).values().t(), double)
        descended = row_errors(weight, descend(columns, solution, double, levels).values().t(), double)
        room = 1e-9 * before + 1e-12
        assert (refitted <= before + room).all()
        assert (descended <= before * (1 + 1e-4) + 1e-6 * before.mean() + 1e-12).all()
        if kind in ("usual", "few tokens") and bits <= 4:
            assert refitted.sum() < 0.999 * before.sum() and descended.sum() < 0.98 * before.sum()


def test_refit_finds_the_least_squares_solution():
    """One row, one group: the best scale and minimum by numpy's own solver, up to float16."""
    weight, hessian = problem(9, rows=5, columns=32)
    spec = AffineSpec(bits=3, group_size=32)
    double = normalized(hessian)
    columns = weight.t().contiguous()
    start = propagate(columns, factorize(double, 0.01), 7, 32, best_grid)
    found = refit(columns, start, double)
    upper = torch.linalg.cholesky(double + 1e-12 * torch.eye(32), upper=True)
    for row in range(5):
        design = torch.stack([start.codes[:, row].double(), torch.ones(32, dtype=torch.float64)], 1)
        best = torch.linalg.lstsq(upper @ design, upper @ weight[row].double()[:, None]).solution[:, 0]
        torch.testing.assert_close(found.grids[0].scale[row].double(), best[0], rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(found.grids[0].minimum[row].double(), best[1], rtol=2e-3, atol=2e-3)
    assert spec.bits == 3


@pytest.mark.parametrize("kind", HESSIANS)
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_any_hessian_gives_sound_weights(kind, bits):
    weight = problem(3, rows=32, columns=100)[0]
    spec = AffineSpec(bits=bits, group_size=64)
    values = GPTQ(weight, spec, HESSIANS[kind](100)).values(64)
    assert torch.isfinite(values).all()
    assert values.norm() > 0.5 * weight.norm()
    dead = values[:, ::3]
    assert dead.norm() > 0.5 * weight[:, ::3].norm(), "columns that no token reached are never zeroed"


def test_an_expert_without_any_token_is_rounded_well_and_not_zeroed():
    weight, _ = problem(4)
    spec = AffineSpec(bits=3, group_size=64)
    values = GPTQ(weight, spec, torch.zeros(128, 128)).values(64)
    rtn = RTN(weight, spec).values(64)
    assert (weight - values).norm() < (weight - rtn).norm() < 0.3 * weight.norm()


def test_only_the_shape_of_the_hessian_matters_not_its_size():
    weight, hessian = problem(2)
    spec = AffineSpec(bits=3, group_size=64)
    one = GPTQ(weight, spec, hessian)
    for factor in (2.0**-40, 2.0**40):
        assert torch.equal(GPTQ(weight, spec, hessian * factor).codes, one.codes)


def test_stacked_matrices_are_solved_as_if_alone():
    weight, hessian = problem(1, rows=96)
    spec = AffineSpec(bits=3, group_size=32)
    whole = GPTQ(weight, spec, hessian)
    for part in (slice(0, 32), slice(32, 96)):
        alone, mine = GPTQ(weight[part], spec, hessian), whole.rows(part)
        assert (alone.codes != mine.codes).float().mean() < 1e-3
        torch.testing.assert_close(alone.values(32), mine.values(32), rtol=0, atol=0.05)
        assert loss(weight[part], alone, spec, hessian) == pytest.approx(
            loss(weight[part], mine, spec, hessian), rel=1e-3
        )


def test_the_same_input_gives_the_same_bytes_and_is_not_changed():
    weight, hessian = problem(1)
    kept = weight.clone(), hessian.clone()
    spec = AffineSpec(bits=2, group_size=32)
    one, other = GPTQ.quantize(weight, spec, hessian), GPTQ.quantize(weight, spec, hessian)
    assert all(one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays)
    assert torch.equal(weight, kept[0]) and torch.equal(hessian, kept[1])


@pytest.mark.parametrize(("corner", "needed"), [(1.0, 0.01), (-0.015, 0.02), (-0.03, 0.04), (-0.085, 0.1)])
def test_damping_doubles_until_cholesky_works(corner, needed):
    hessian = torch.eye(64, dtype=torch.float64)
    hessian[0, 0] = corner
    factor = factorize(hessian, 0.01)
    assert factor is not None and factor.damping == pytest.approx(needed)
    upper = factor.ratios.double() * factor.strength.double().sqrt()
    torch.testing.assert_close(upper @ upper.T, factor.hessian, rtol=1e-5, atol=1e-6)


def test_without_a_factor_it_falls_back_to_clipped_rounding_and_says_so():
    weight, hessian = problem(1)
    indefinite = hessian - 2 * torch.outer(torch.ones(128), torch.ones(128)) + 4 * torch.eye(128)
    assert factorize(normalized(indefinite), 0.01) is None
    spec = AffineSpec(bits=2, group_size=64)
    found = GPTQ(weight, spec, indefinite)
    assert "Cholesky failed up to damping 0.1" in found.remark
    identity = torch.eye(128)
    assert loss(weight, found, spec, identity) < 0.9 * loss(weight, RTN(weight, spec), spec, identity)


def test_a_solution_that_lost_half_of_the_norm_is_replaced(monkeypatch):
    from moecompress.passes.quantize.methods import gptq

    weight, hessian = problem(1)
    spec = AffineSpec(bits=2, group_size=64)

    def shrunk(columns, *rest):
        return propagate(columns / 3, *rest)

    monkeypatch.setattr(gptq, "propagate", shrunk)
    found = GPTQ(weight, spec, hessian, PLAIN)
    assert "lost half of the norm" in found.remark
    assert torch.equal(found.codes, RTN(weight, spec).codes)


@pytest.mark.parametrize(
    ("hessian", "words"),
    [
        (None, "it was given none"),
        (torch.eye(64), r"shape \[128, 128\]"),
        (torch.full((128, 128), torch.nan), "overflowed"),
        (-torch.eye(128), "negative diagonal"),
    ],
)
def test_bad_hessians_are_refused(hessian, words):
    with pytest.raises(CalibrationError, match=words):
        GPTQ(problem()[0], AffineSpec(bits=4, group_size=64), hessian)
