"""quantize.experts on a tiny real model: Hessians of the right inputs, rare experts, notes and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moecompress.codecs.base import EncodedWeight
from moecompress.core.errors import CalibrationError, RecipeError
from moecompress.passes.base import PassContext, dense
from moecompress.passes.quantize._hessians import ExpertHessians
from moecompress.passes.quantize.experts import PASS
from moecompress.passes.quantize.methods.table import method_named
from moecompress.testing.pass_checks import tiny_units

DEFAULT = PASS.options.model_validate({})


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    units = tiny_units(tmp_path_factory.mktemp("units"), "mixtral", tokens=512)
    return next(unit for unit in units if unit.layer.experts)


def run(unit, statistics=None, **values):
    notes = []
    options = PASS.options.model_validate({"bits": 3, "group_size": 32, **values})
    layer = PASS.apply(unit.layer, options, None, PassContext(0, statistics or unit.statistics, notes.append))
    return layer, notes


def same(one, other):
    return all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def test_gate_and_up_share_their_inputs_gram_and_down_gets_that_of_the_quantized_ones(unit):
    layer, _ = run(unit, weighting="none")
    gptq, statistics = method_named("gptq"), unit.statistics
    for expert in (0, 5):
        made, source = layer.experts[expert], unit.layer.experts[expert]
        gram = statistics.shrunk_gram_in(expert)
        for projection in ("gate", "up"):
            assert same(made[projection], gptq.quantize(source[projection], made[projection].spec, gram))
        middle = statistics.shrunk_gram_mid(expert, dense(made["gate"]), dense(made["up"]))
        assert same(made["down"], gptq.quantize(source["down"], made["down"].spec, middle))
        original = statistics.shrunk_gram_mid(expert, source["gate"].float(), source["up"].float())
        assert not torch.allclose(middle, original, rtol=1e-3)


def test_tokens_count_by_their_routing_weight(unit):
    statistics, hessians = unit.statistics, ExpertHessians(unit.statistics, "routing")
    gate, up, _ = (unit.layer.experts[3][projection].float() for projection in ("gate", "up", "down"))
    index = torch.from_numpy(np.array(statistics.top_k_index))
    weights = torch.from_numpy(np.array(statistics.top_k_weights, np.float32))
    routed = (weights * (index == 3)).sum(1)
    inputs = statistics.inputs(slice(None))
    hidden = torch.nn.functional.silu(inputs @ gate.T) * (inputs @ up.T)
    effective = float(routed.sum() ** 2 / routed.square().sum())
    layers = statistics.gram_layer(), statistics.gram_mid_layer(gate, up)
    made = hessians.inner(3), hessians.middle(3, gate, up)
    for values, whole, found in zip((inputs, hidden), layers, made, strict=True):
        own = (values.T * routed) @ values / routed.sum()
        lam = effective / (effective + values.shape[1] / 2)
        torch.testing.assert_close(found, lam * own + (1 - lam) * whole, rtol=1e-2, atol=1e-3 * float(own.abs().max()))
    assert not torch.allclose(hessians.inner(3), ExpertHessians(statistics, "none").inner(3), rtol=1e-2)
    assert hessians.own_share(3) < ExpertHessians(statistics, "none").own_share(3)


def outputs(expert, inputs):
    gate, up, down = (dense(expert[projection]) for projection in ("gate", "up", "down"))
    return (torch.nn.functional.silu(inputs @ gate.T) * (inputs @ up.T)) @ down.T


def output_error(layer, unit):
    """Relative error of all experts' outputs on the tokens routed to them."""
    lost = total = 0.0
    for expert, (made, source) in enumerate(zip(layer.experts, unit.layer.experts, strict=True)):
        inputs = unit.statistics.inputs(unit.statistics.rows(expert))
        exact = outputs(source, inputs)
        lost += float((outputs(made, inputs) - exact).square().sum())
        total += float(exact.square().sum())
    return (lost / total) ** 0.5


def test_gptq_beats_hqq_beats_or_equals_rtn_on_the_experts_outputs(unit):
    errors = {method: output_error(run(unit, method=method)[0], unit) for method in ("gptq", "hqq", "rtn")}
    assert errors["gptq"] < 0.8 * errors["hqq"]
    assert errors["hqq"] < 1.02 * errors["rtn"]
    assert output_error(run(unit, bits=8)[0], unit) < 0.02


def test_bits_by_projection(unit):
    layer, notes = run(unit, bits={"gate": 2, "up": 3, "down": 5}, method="rtn")
    for expert in layer.experts:
        assert [expert[p].spec.key for p in ("gate", "up", "down")] == ["affine2g32", "affine3g32", "affine5g32"]
    assert notes[0]["specs"] == {"gate": "affine2g32", "up": "affine3g32", "down": "affine5g32"}
    assert notes[0]["measure"] == "weight"


def test_gate_and_up_of_unequal_bits_are_what_they_would_be_alone(unit):
    mixed, _ = run(unit, bits={"gate": 2, "up": 3, "down": 3})
    uniform, _ = run(unit, bits=3)
    assert same(mixed.experts[1]["up"], uniform.experts[1]["up"])
    assert not same(mixed.experts[1]["down"], uniform.experts[1]["down"]), "down makes up for the coarser gate"


def test_every_expert_is_claimed_and_the_trunk_is_not_touched(unit):
    layer, _ = run(unit, method="rtn")
    index = unit.layer.index
    expected = {f"layers.{index}.experts.{e}.{p}" for e in range(8) for p in ("gate", "up", "down")}
    assert layer.claims == dict.fromkeys(expected, "quantize.experts")
    assert layer.trunk is unit.layer.trunk


def test_the_note_tells_errors_tokens_and_shares(unit):
    _, (note,) = run(unit)
    assert len(note["experts"]) == 8
    for expert, row in enumerate(note["experts"]):
        assert row["tokens"] == int(unit.statistics.count[expert]) and 0 < row["lam"] < 1
        assert set(row["error"]) == {"gate", "up", "down"} and all(0 < error < 0.5 for error in row["error"].values())
        assert row["remarks"] == {}
    assert "relative output error" in note["summary"] and "fewest tokens" in note["summary"]


def without_tokens(statistics, expert):
    """The same statistics, had no token been routed to `expert`."""
    index = np.where(np.asarray(statistics.top_k_index) == expert, (expert + 1) % 8, np.asarray(statistics.top_k_index))
    count = statistics.count.copy()
    count[expert] = 0
    return replace(statistics, top_k_index=index, count=count)


def test_an_expert_that_no_token_reached_is_quantized_by_its_layers_gram(unit):
    statistics = without_tokens(unit.statistics, 2)
    layer, (note,) = run(unit, statistics)
    made, source = layer.experts[2], unit.layer.experts[2]
    assert note["experts"][2]["tokens"] == 0 and note["experts"][2]["lam"] == 0
    for projection in ("gate", "up", "down"):
        assert dense(made[projection]).norm() > 0.8 * source[projection].float().norm()
    rare = unit.statistics.inputs(slice(None))
    exact = outputs(source, rare)
    rtn = run(unit, method="rtn")[0].experts[2]
    assert (outputs(made, rare) - exact).norm() < 0.9 * (outputs(rtn, rare) - exact).norm()


def test_quantizing_twice_is_refused_by_name(unit):
    layer, _ = run(unit, method="rtn")
    with pytest.raises(RecipeError, match=r"layers\.\d+\.experts\.0\.gate as affine3g32.*cannot be quantized again"):
        PASS.apply(layer, PASS.options.model_validate({"method": "rtn"}), None, PassContext(0))


def test_missing_statistics_are_named(unit):
    with pytest.raises(CalibrationError, match=r"quantize\.experts with gptq needs calibration statistics; layer"):
        PASS.apply(unit.layer, DEFAULT, None, PassContext(0))


def test_experts_without_a_gate(unit):
    ungated = tuple({p: w for p, w in expert.items() if p != "gate"} for expert in unit.layer.experts)
    layer = PASS.apply(replace(unit.layer, experts=ungated), DEFAULT, None, PassContext(0, unit.statistics))
    assert all(set(expert) == {"up", "down"} for expert in layer.experts)
    assert all(isinstance(weight, EncodedWeight) for expert in layer.experts for weight in expert.values())
