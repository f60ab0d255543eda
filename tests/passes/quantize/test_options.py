"""Options of the quantizing passes: what recipes may write, what is recorded, and what refusals say."""

import pytest
from pydantic import ValidationError

from moecompress.core.errors import RecipeError
from moecompress.passes.quantize.experts import PASS as EXPERTS
from moecompress.passes.quantize.trunk import PASS as TRUNK
from moecompress.recipe.load import load_recipe


def experts(**values):
    return EXPERTS.options.model_validate(values)


def trunk(**values):
    return TRUNK.options.model_validate(values)


def test_bits_are_one_number_or_a_mapping_with_a_default():
    assert [experts(bits=3).spec_of(p).key for p in ("gate", "up", "down")] == ["affine3g64"] * 3
    mixed = experts(bits={"default": 2, "down": 5}, group_size=32)
    assert [mixed.spec_of(p).key for p in ("gate", "up", "down")] == ["affine2g32", "affine2g32", "affine5g32"]
    assert trunk(bits={"attention": 8, "default": 4}).spec_of("dense_ffn", (8, 8)).bits == 4


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_of_the_codec_is_allowed(bits):
    assert experts(bits=bits).spec_of("up").bits == bits


def test_what_a_recipe_does_not_write_is_recorded_with_its_default():
    recorded = experts(method="gptq", method_options={"refit": False}).model_dump(mode="json")
    assert recorded["method_options"] == {"clip_search": True, "refit": False, "sweeps": 2, "damping": 0.1}
    assert experts(method="rtn").model_dump()["method_options"] == {}
    assert EXPERTS.options.model_validate(recorded).model_dump(mode="json") == recorded


def test_statistics_are_needed_by_gptq_only():
    assert EXPERTS.needs(experts(method="gptq")) and TRUNK.needs(trunk(method="gptq"))
    for method in ("rtn", "hqq"):
        assert not EXPERTS.needs(experts(method=method)) and not TRUNK.needs(trunk(method=method))


def test_which_parameters_each_pass_plans_to_change():
    options = experts(bits={"gate": 2, "up": 3, "down": 4})
    name = "layers.3.experts.7.{}"
    planned = [EXPERTS.planned_spec(options, None, name.format(p), None, (8, 8)) for p in ("gate", "up", "down")]
    assert [spec.bits for spec in planned] == [2, 3, 4]
    assert EXPERTS.planned_spec(options, None, "model.layers.0.mlp.gate.weight", "router", (8, 8)) is None
    chosen = trunk(include=["head"])
    for role, shape, bits in [
        ("attention", (8, 8), 8), ("shared_expert", (8, 8), 8), ("dense_ffn", (8, 8), 8), ("head", (8, 8), 8),
        ("embedding", (8, 8), None), ("router", (8, 8), None), ("norm", (8,), None), ("bias", (8,), None),
        ("attention", (8,), None), ("attention", (8, 1, 4), None), (None, (8, 8), None),
    ]:  # fmt: skip
        spec = TRUNK.planned_spec(chosen, None, "name", role, shape)
        assert (spec.bits if spec else None) == bits, (role, shape)


RECIPE = "version: 1\nmodel: builtin\npasses:\n  - quantize.{pass_name}: {options}\n"


@pytest.mark.parametrize(
    ("pass_name", "options", "words"),
    [
        ("experts", "{bits: 9}", ["bits", "less than or equal to 8", "9"]),
        ("experts", "{bits: 0}", ["bits", "greater than or equal to 1"]),
        ("experts", "{bits: 3.5}", ["bits", "3.5"]),
        ("experts", "{bits: yes}", ["bits", "integer"]),
        ("experts", "{bits: {gat: 3, default: 4}}", ["bits", "no role 'gat'", "'gate'"]),
        ("experts", "{bits: {gate: 3, up: 3}}", ["bits", "down"]),
        ("experts", "{group_size: 48}", ["group_size", "48"]),
        ("experts", "{method: gtpq}", ["method", "'gtpq'", "'gptq'"]),
        ("experts", "{method_options: {damp: 0.1}}", ["method_options", "gptq has no option 'damp'", "'damping'"]),
        ("experts", "{method_options: {damping: 0.5}}", ["damping of gptq", "0.5"]),
        ("experts", "{method: rtn, method_options: {damping: 0.05}}", ["rtn has no option 'damping'"]),
        ("trunk", "{roles: [experts]}", ["roles", "experts"]),
        ("trunk", "{include: [norm]}", ["include", "norm"]),
        ("trunk", "{bits: {attention: 4}}", ["bits has no entry for shared_expert, dense_ffn"]),
        ("trunk", "{bits: {atention: 4}}", ["bits", "no role 'atention'", "'attention'"]),
    ],
)
def test_refusals_name_the_line_the_key_and_what_is_allowed(tmp_path, pass_name, options, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(pass_name=pass_name, options=options))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:4:"), message
    for word in words:
        assert word in message, message


def test_options_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        experts().bits = 3
