from pathlib import Path

import pytest

from moecompress.core.errors import RecipeError
from moecompress.recipe.load import load_recipe

GOOD = """\
version: 1
model: builtin
passes:
  - quantize.experts: {method: rtn, bits: 3, group_size: 64}
  - quantize.trunk: {bits: 8}
"""


@pytest.fixture
def write(tmp_path):
    def _write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


def refusal(path, overrides=()):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_good_recipe_gives_its_steps_in_order(write):
    loaded = load_recipe(write(GOOD))
    assert [step.name for step in loaded.steps] == ["quantize.experts", "quantize.trunk"]
    assert loaded.steps[0].options.bits == 3
    assert loaded.resolved["passes"][0]["quantize.experts"]["group_size"] == 64


@pytest.mark.parametrize(
    ("bad", "line", "words"),
    [
        (GOOD.replace("group_size: 64", "groupsize: 64"), 4, ["groupsize", "'group_size'"]),
        (GOOD.replace("quantize.experts", "quantise.experts"), 4, ["quantise.experts", "'quantize.experts'"]),
        (GOOD.replace("bits: 3", "bits: lots"), 4, ["bits", "'lots'"]),
        (GOOD.replace("bits: 3", "bits: 17"), 4, ["bits", "17"]),
        (GOOD.replace("method: rtn", "method: rtm"), 4, ["rtm", "rtn"]),
        (GOOD + "gate: {}\n", 6, ["gate", "'gates'"]),
        (GOOD.replace("version: 1", "version: 2"), 1, ["version", "2"]),
        (GOOD + "model: other\n", 6, ["model", "twice"]),
        (GOOD + "calibration: {tokens: many}\n", 6, ["calibration.tokens", "many"]),
        (GOOD + "calibration: {token: 5}\n", 6, ["calibration.token", "'tokens'"]),
        (GOOD + "budget: {size: huge}\n", 6, ["size", "huge"]),
        ("version: 1\npasses:\n  - [1\n", 4, ["YAML"]),
        ("version: 1\npasses: [{}]\n", 2, ["one pass name"]),
        ("version: 1\nseed: !!python/object:os.system x\n", 2, ["plain value"]),
    ],
)
def test_errors_name_file_line_key_and_what_is_meant(write, bad, line, words):
    path = write(bad)
    message = refusal(path)
    assert message.startswith(f"{path}:{line}:"), message
    for word in words:
        assert word in message


def test_missing_version_and_wrong_shape_are_refused(write):
    assert "'version' is missing" in refusal(write("passes: []\n"))
    assert "mapping" in refusal(write("- 1\n"))
    assert "Cannot read" in refusal(Path("no/such/recipe.yaml"))


def test_impossible_orders_are_refused(write):
    twice = GOOD + "  - quantize.experts: {bits: 2}\n"
    message = refusal(write(twice))
    assert ":6:" in message
    assert "already ran" in message


def test_set_reaches_through_dotted_pass_names(write):
    loaded = load_recipe(write(GOOD), ["passes.0.quantize.experts.bits=5", "calibration.tokens=4096", "seed=7"])
    assert loaded.steps[0].options.bits == 5
    assert loaded.recipe.calibration.tokens == 4096
    assert loaded.recipe.seed == 7


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("passes.0.quantize.experts.bits", "key=value"),
        ("passes.5.quantize.experts.bits=3", "not a position"),
        ("version.x=3", "no keys"),
        ("passes.0.quantize.experts.bitts=3", "--set passes.0.quantize.experts.bitts=3"),
    ],
)
def test_bad_overrides_are_refused(write, override, words):
    assert words in refusal(write(GOOD), [override])


def test_extends_merges_mappings_and_keeps_the_line_of_the_base(write):
    write(GOOD + "calibration: {tokens: 2048, seed: 3}\n", "base.yaml")
    child = write("extends: base\ncalibration: {seed: 4}\n", "child.yaml")
    loaded = load_recipe(child)
    assert (loaded.recipe.calibration.tokens, loaded.recipe.calibration.seed) == (2048, 4)
    write(GOOD.replace("bits: 3", "bits: x"), "base.yaml")
    assert "base.yaml:4:" in refusal(child)


def test_extends_refuses_cycles_and_missing_files(write):
    assert "itself" in refusal(write("extends: loop\nversion: 1\n", "loop.yaml"))
    message = refusal(write("version: 1\nextends: nowhere\n", "lost.yaml"))
    assert "lost.yaml:2:" in message and "does not exist" in message


def test_every_bundled_recipe_loads():
    recipes = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
    assert recipes
    for path in recipes:
        if "_units" not in path.parts:
            load_recipe(path, model="builtin")
