"""quantize.trunk: which tensors it takes, whose Grams it uses, odd shapes, tied tensors."""

import numpy as np
import pytest
import torch

from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.table import codec_of
from moecompress.core.errors import CalibrationError, RecipeError
from moecompress.passes.base import LayerWeights, PassContext, TrunkWeight, dense
from moecompress.passes.quantize.trunk import PASS
from moecompress.testing.pass_checks import tiny_units


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    return tiny_units(tmp_path_factory.mktemp("units"), "qwen2_moe")


def run(layer, statistics=None, **values):
    notes = []
    options = PASS.options.model_validate(values)
    return PASS.apply(layer, options, None, PassContext(0, statistics, notes.append)), notes


def encoded(layer):
    return {name for name, item in layer.trunk.items() if isinstance(item.weight, EncodedWeight)}


def of_roles(layer, *roles):
    return {name for name, item in layer.trunk.items() if item.role in roles and item.weight.ndim == 2}


def test_by_default_attention_shared_experts_and_dense_layers_change(units):
    for unit in units:
        layer, _ = run(unit.layer)
        expected = of_roles(unit.layer, "attention", "shared_expert", "dense_ffn")
        assert encoded(layer) == expected and layer.claims == dict.fromkeys(expected, "quantize.trunk")
        assert layer.experts is unit.layer.experts
    assert expected, "the last unit is a decoder layer with attention"


def test_protected_roles_change_only_when_named_and_vectors_never(units):
    outside = units[0].layer
    assert run(outside)[0] is outside
    layer, _ = run(outside, include=["embedding", "head"])
    assert encoded(layer) == {"model.embed_tokens.weight", "lm_head.weight"}
    inside = units[1].layer
    routers = of_roles(inside, "router")
    assert routers and not routers & encoded(run(inside)[0])
    assert encoded(run(inside, include=["router"], roles=[])[0]) == routers
    vectors = {name for name, item in inside.trunk.items() if item.weight.ndim == 1}
    assert vectors and not vectors & encoded(run(inside, include=["router", "other"])[0])


def test_bits_by_role(units):
    layer, _ = run(units[1].layer, bits={"attention": 6, "default": 3}, group_size=32)
    for name in encoded(layer):
        item = layer.trunk[name]
        assert item.weight.spec.key == ("affine6g32" if item.role == "attention" else "affine3g32")


def test_gptq_uses_the_grams_of_the_layers_inputs(units):
    unit = units[1]
    name = next(name for name in unit.layer.trunk if name.endswith("q_proj.weight"))
    gram = unit.statistics.trunk_gram(name)
    weight = unit.layer.trunk[name].weight.float()

    def loss(method):
        layer, _ = run(unit.layer, unit.statistics, method=method, bits=3)
        error = weight - dense(layer.trunk[name].weight)
        return float(((error @ gram) * error).sum())

    assert loss("gptq") < 0.7 * loss("rtn")


def test_gptq_without_a_gram_minimises_the_weights_error_and_says_so(units):
    outside = units[0].layer
    layer, (note,) = run(outside, method="gptq", bits=3, include=["head"])
    head = outside.trunk["lm_head.weight"].weight.float()
    rounded = dense(run(outside, method="rtn", bits=3, include=["head"])[0].trunk["lm_head.weight"].weight)
    assert (dense(layer.trunk["lm_head.weight"].weight) - head).norm() < 0.9 * (rounded - head).norm()
    assert "no Gram" in note["tensors"]["lm_head.weight"]["remark"]


def test_gptq_in_a_layer_without_statistics_is_refused(units):
    with pytest.raises(CalibrationError, match="layer 0 has none"):
        run(units[1].layer, method="gptq")


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 5), (33, 31), (16, 97), (3, 200)])
@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq"])
def test_short_and_odd_rows_work(rows, columns, method):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    layer = LayerWeights(None, None, (), {"w": TrunkWeight("attention", weight)})
    made = run(layer, method=method, bits=8, group_size=64)[0].trunk["w"].weight
    assert made.shape == (rows, columns)
    assert (dense(made) - weight).abs().max() < 0.03
    codec = codec_of(made.spec)
    again = codec.unpack(codec.pack(made), made.spec, made.shape)
    assert np.array_equal(codec.dequantize(again), codec.dequantize(made))


def test_tensors_that_share_storage_are_encoded_once():
    table = torch.randn(40, 32)
    trunk = {"embed": TrunkWeight("embedding", table), "head": TrunkWeight("head", table)}
    layer, _ = run(LayerWeights(None, None, (), trunk), include=["embedding", "head"])
    assert layer.trunk["embed"].weight is layer.trunk["head"].weight
    assert layer.trunk["embed"].role == "embedding" and layer.trunk["head"].role == "head"
    apart = {**trunk, "head": TrunkWeight("head", table.clone())}
    layer, _ = run(LayerWeights(None, None, (), apart), include=["embedding", "head"])
    assert layer.trunk["embed"].weight is not layer.trunk["head"].weight


def test_quantizing_twice_is_refused_by_name(units):
    once, _ = run(units[1].layer)
    with pytest.raises(RecipeError, match=r"quantize\.trunk met model\.layers\.0\..* as affine8g64"):
        run(once)
    untouched = of_roles(units[1].layer, "router")
    assert encoded(run(once, roles=[], include=["router"])[0]) >= untouched, "other roles may follow"
