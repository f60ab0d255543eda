"""Every registered pass passes the conformance suite, on a family with shared experts and on one without."""

import numpy as np
import pytest
import torch

from moecompress.passes.base import LayerWeights, Pass, PassContext, PassOptions, TrunkWeight
from moecompress.testing.pass_checks import check, check_pass, known_passes, tiny_units


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    return tiny_units(tmp_path_factory.mktemp("units"))


OTHER_OPTIONS = {
    "quantize.experts": [
        {"method": "rtn", "bits": {"default": 2, "down": 3}, "group_size": 32},
        {"method": "hqq", "bits": 3, "method_options": {"iterations": 3}},
    ],
    "quantize.trunk": [
        {"method": "gptq", "bits": {"default": 4, "router": 8}, "include": ["embedding", "head", "router"]},
        {"method": "hqq", "bits": 1, "roles": ["attention"], "group_size": 128},
    ],
}


@pytest.mark.parametrize("name", sorted(known_passes()))
def test_every_pass_conforms(name, units):
    check_pass(name, units)
    for options in OTHER_OPTIONS.get(name, ()):
        check_pass(name, units, options)


def test_a_family_without_shared_experts_conforms(tmp_path):
    check_pass("quantize.experts", tiny_units(tmp_path, "mixtral"))


class NoOptions(PassOptions):
    pass


def pass_that(apply):
    return Pass(options=NoOptions, stage="tune", apply=apply)


def _first(layer):
    return next(iter(layer.trunk))


def doubled(layer, claim):
    name = _first(layer)
    weight = layer.trunk[name].weight * 2
    return layer.with_trunk({name: TrunkWeight(layer.trunk[name].role, weight)}, {name: claim} if claim else {})


def honest(layer, options, plan, context):
    return doubled(layer, "mine")


def hides(layer, options, plan, context):
    return doubled(layer, None)


def claims_too_much(layer, options, plan, context):
    return layer.with_trunk({}, {_first(layer): "mine"})


def mutates(layer, options, plan, context):
    layer.trunk[_first(layer)].weight.mul_(2)
    return layer


def forgets_the_seed(layer, options, plan, context):
    name = _first(layer)
    weight = layer.trunk[name].weight
    noise = torch.from_numpy(np.random.default_rng().normal(size=tuple(weight.shape))).to(weight.dtype)
    return layer.with_trunk({name: TrunkWeight(layer.trunk[name].role, weight + noise)}, {name: "mine"})


def not_finite(layer, options, plan, context):
    name = _first(layer)
    weight = torch.full_like(layer.trunk[name].weight, torch.nan)
    return layer.with_trunk({name: TrunkWeight(layer.trunk[name].role, weight)}, {name: "mine"})


def transposes(layer, options, plan, context):
    name = next(key for key, item in layer.trunk.items() if item.weight.ndim == 2)
    weight = layer.trunk[name].weight
    return layer.with_trunk({name: TrunkWeight(layer.trunk[name].role, weight.T.contiguous())}, {name: "mine"})


def test_an_honest_pass_conforms(units):
    check("mine", pass_that(honest), units, {})


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (hides, "hides"),
        (claims_too_much, "unchanged"),
        (mutates, "changed its input"),
        (forgets_the_seed, "same seed differ"),
        (not_finite, "not finite"),
        (transposes, "changed shapes"),
    ],
)
def test_the_suite_catches_broken_promises(apply, words, tmp_path):
    with pytest.raises(AssertionError, match=words):
        check("mine", pass_that(apply), tiny_units(tmp_path, tokens=32), {})


def test_the_suite_catches_unknown_statistics_and_wrong_plans(units):
    unknown = Pass(options=NoOptions, stage="tune", apply=honest, needs=lambda options: frozenset({"moon_phase"}))
    with pytest.raises(AssertionError, match="moon_phase"):
        check("mine", unknown, units, {})
    planned = Pass(options=NoOptions, stage="tune", apply=honest, planned_spec=lambda *_: "affine")
    with pytest.raises(AssertionError, match="planned affine"):
        check("mine", planned, units, {})


def test_layers_without_experts_are_left_alone():
    definition = known_passes()["quantize.experts"]
    layer = LayerWeights(0, None, (), {})
    assert definition.apply(layer, definition.options(), None, PassContext(0)) is layer
