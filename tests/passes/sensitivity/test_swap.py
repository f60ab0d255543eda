"""Swap errors against running the whole block with one expert replaced."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moecompress.codecs.affine import AffineSpec
from moecompress.core.errors import CalibrationError
from moecompress.passes.base import PassContext, dense
from moecompress.passes.quantize._options import Solver
from moecompress.passes.sensitivity.swap import SENSITIVITY, probe
from moecompress.testing.pass_checks import tiny_units

RTN = {"method": "rtn", "method_options": {}, "weighting": "none"}
ALL = ("gate", "up", "down")


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    units = tiny_units(tmp_path_factory.mktemp("units"), "mixtral", tokens=256)
    return next(unit for unit in units if unit.layer.experts)


def spec(bits):
    return AffineSpec(bits=bits, group_size=32)


def measured(unit, *probes):
    return SENSITIVITY.measure(unit.layer, probes, PassContext(0, unit.statistics))


def block(experts, statistics):
    """The experts' part of the block's output for every token, `[T, H]`, token by token."""
    inputs = statistics.inputs(slice(None))
    index, weights = np.asarray(statistics.top_k_index), np.asarray(statistics.top_k_weights)
    output = torch.zeros_like(inputs)
    for token in range(len(inputs)):
        for expert, weight in zip(index[token], weights[token], strict=True):
            gate, up, down = (dense(experts[expert][p]) for p in ALL)
            x = inputs[token]
            output[token] += float(weight) * (down @ (torch.nn.functional.silu(gate @ x) * (up @ x)))
    return output


def with_rounded(unit, expert, projections, bits, method="rtn"):
    changed = dict(unit.layer.experts[expert])
    for projection in projections:
        changed[projection] = Solver.named(method)(changed[projection], spec(bits)).values(32)
    return [*unit.layer.experts[:expert], changed, *unit.layer.experts[expert + 1 :]]


@pytest.mark.parametrize("projections", [ALL, ("down",), ("gate", "up")])
def test_errors_are_those_of_the_block_with_one_expert_replaced(unit, projections):
    asked = [probe({p: spec(2) for p in projections}, RTN, gradient) for gradient in ("none", "text", "model")]
    plain, text, model = measured(unit, *asked)
    assert set(plain) == {"error"} and plain["error"] == text["error"]
    original = block(unit.layer.experts, unit.statistics)
    for expert in (1, 6):
        difference = original - block(with_rounded(unit, expert, projections, 2), unit.statistics)
        tokens = len(difference)
        assert plain["error"][expert] == pytest.approx(float(difference.square().sum()) / tokens, rel=1e-3)
        for labels, answer in (("text", text), ("model", model)):
            pushed = difference * unit.statistics.gradient_rows(labels, np.arange(tokens))
            assert answer["weighted"][expert] == pytest.approx(float(pushed.square().sum()) / tokens, rel=1e-3)
            assert answer["directed"][expert] == pytest.approx(float(pushed.sum(1).square().sum()) / tokens, rel=1e-3)


def test_the_error_falls_with_every_bit(unit):
    answers = measured(unit, *(probe(dict.fromkeys(ALL, spec(bits)), RTN, "model") for bits in (1, 2, 3, 4, 5, 8)))
    for figure in ("error", "weighted", "directed"):
        table = np.array([answer[figure] for answer in answers])
        assert (np.diff(table, axis=0) < 0).all(), figure


def test_the_method_of_the_probe_rounds(unit):
    asked = [
        probe(dict.fromkeys(ALL, spec(2)), {**RTN, "method": method, "weighting": "routing"})
        for method in ("rtn", "hqq", "gptq")
    ]
    rtn, hqq, gptq = (sum(answer["error"]) for answer in measured(unit, *asked))
    assert gptq < hqq < 1.05 * rtn
    assert gptq < 0.8 * rtn


def test_some_tokens_estimate_all(unit):
    whole, part = measured(unit, *(probe(dict.fromkeys(ALL, spec(2)), RTN, tokens=tokens) for tokens in (10**6, 24)))
    assert sum(part["error"]) == pytest.approx(sum(whole["error"]), rel=0.3)
    assert part != whole


def test_experts_without_tokens_cost_nothing(unit):
    index = np.where(np.asarray(unit.statistics.top_k_index) == 2, 3, np.asarray(unit.statistics.top_k_index))
    statistics = replace(unit.statistics, top_k_index=index)
    (answer,) = SENSITIVITY.measure(unit.layer, [probe({"down": spec(2)}, RTN, "text")], PassContext(0, statistics))
    assert [answer[figure][2] for figure in answer] == [0.0, 0.0, 0.0]


def test_statistics_are_needed(unit):
    with pytest.raises(CalibrationError, match="needs calibration statistics"):
        SENSITIVITY.measure(unit.layer, [probe({}, RTN)], PassContext(0))
