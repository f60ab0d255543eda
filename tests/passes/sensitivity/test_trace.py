"""Traces against Hutchinson's estimate of the Hessian of the layer-wise loss, and usage against the statistics."""

import numpy as np
import pytest
import torch

from moecompress.calibration.statistics import expert_hidden
from moecompress.codecs.affine import AffineSpec
from moecompress.core.errors import CalibrationError
from moecompress.passes.base import PassContext
from moecompress.passes.quantize._options import Solver
from moecompress.passes.sensitivity import trace, usage
from moecompress.testing.pass_checks import tiny_units

SPEC = AffineSpec(bits=3, group_size=32)


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    units = tiny_units(tmp_path_factory.mktemp("units"), "mixtral")
    return next(unit for unit in units if unit.layer.experts)


def inputs_of(unit, expert, projection):
    values = unit.statistics.inputs(unit.statistics.rows(expert))
    weights = unit.layer.experts[expert]
    return (
        values
        if projection != "down"
        else expert_hidden(values, weights["gate"], weights["up"], unit.statistics.activation)
    )


@pytest.mark.parametrize("projection", ["gate", "down"])
def test_the_trace_is_what_hutchinson_estimates(unit, projection):
    """½ ‖(W − Ŵ) X‖² / n has the Hessian I ⊗ G; vᵀ H v for random signs v averages to its trace."""
    weight, inputs = unit.layer.experts[2][projection].double(), inputs_of(unit, 2, projection).double()

    def gradient(change):
        return (change @ inputs.T) @ inputs / len(inputs)

    generator = torch.Generator().manual_seed(0)
    signs = (torch.randint(0, 2, weight.shape, generator=generator).double() * 2 - 1 for _ in range(200))
    estimate = np.mean([float((sign * gradient(sign)).sum()) for sign in signs])
    matrices = {p: w.float() for p, w in unit.layer.experts[2].items()}
    exact = weight.shape[0] * trace.traces_of(matrices, unit.statistics, 2)[projection]
    assert estimate == pytest.approx(exact, rel=0.1)


def test_the_score_is_the_mean_trace_times_the_rounding_error(unit):
    (answer,) = trace.SENSITIVITY.measure(unit.layer, [trace.probe(SPEC)], PassContext(0, unit.statistics))
    for projection in ("gate", "up", "down"):
        weight = unit.layer.experts[5][projection].float()
        lost = (weight - Solver.named("rtn")(weight, SPEC).values(32)).square().sum()
        gram = inputs_of(unit, 5, projection).square().sum() / len(inputs_of(unit, 5, projection))
        assert answer[projection][5] == pytest.approx(float(gram / weight.shape[1] * lost), rel=1e-4)


def test_usage_is_the_statistics_own(unit):
    (answer,) = usage.SENSITIVITY.measure(unit.layer, [usage.PROBE], PassContext(0, unit.statistics))
    assert answer["count"] == unit.statistics.count.tolist() and sum(answer["count"]) == 2 * answer["tokens"]
    assert answer["raw"] == unit.statistics.wsum_raw.tolist() and answer["used"] == unit.statistics.wsum_used.tolist()


def test_both_need_statistics(unit):
    for kind, probe in ((trace, trace.probe(SPEC)), (usage, usage.PROBE)):
        with pytest.raises(CalibrationError, match="statistics"):
            kind.SENSITIVITY.measure(unit.layer, [probe], PassContext(0))
