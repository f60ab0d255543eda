"""Bits that are chosen, through the whole pipeline: recorded, planned, resumed, shared by recipes, refused by line."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from moecompress.artifact.verify import verify
from moecompress.core.errors import RecipeError
from moecompress.models.discover import discover
from moecompress.models.source import TensorSource
from moecompress.passes.quantize.experts import PASS
from moecompress.pipeline import decide
from moecompress.pipeline.plan import make_plan
from moecompress.pipeline.run import run_recipe
from moecompress.recipe.load import load_recipe

WIDE = {"hidden_size": 128, "intermediate_size": 64}
RECIPE = """\
version: 1
calibration: {source: TEXT, tokens: 512, sequence_length: 64, gradient_tokens: 256}
passes:
  - quantize.experts:
      method: rtn
      group_size: 32
      bits: {allocate: gemq, choices: [2, 3, 4], average: 3, count: nominal}
"""


@pytest.fixture
def recipe(tmp_path):
    def write(bits=None, method="rtn", **overrides):
        text = tmp_path / "text.txt"
        text.write_text("\n".join(f"line {i}: the quick brown fox jumps over {i * i} lazy dogs" for i in range(400)))
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace("TEXT", str(text)))
        values = [f"passes.0.quantize.experts.method={method}"]
        if bits:
            values.append(f"passes.0.quantize.experts.bits={json.dumps(bits)}")
        return load_recipe(path, [*values, *(f"{key}={value}" for key, value in overrides.items())])

    return write


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("mixtral", **WIDE)


def decision(manifest):
    entry = manifest.provenance.passes[0]
    assert entry["unit"] == "model" and entry["fates"] == {}
    (note,) = entry["notes"]
    return note["plan"]


def planned(recipe, model, cache):
    source = TensorSource.open(model)
    return make_plan(recipe, source, discover(source), cache)


def test_the_manifest_holds_the_decision_and_the_experts_their_bits(recipe, model, tmp_path):
    manifest = run_recipe(recipe(), model, tmp_path / "out", tmp_path / "cache").manifest
    verify(tmp_path / "out")
    plan = decision(manifest)
    assert plan["allocator"] == "gemq" and plan["details"]["unit"] == "nats per token" and plan["predicted"] > 0
    stored = [[e.projections["down"].codec for e in layer.experts] for layer in manifest.experts]
    assert stored == [[plan["forms"][row[2]] for row in plan["layers"][str(layer.layer)]] for layer in manifest.experts]
    bits = np.array([[int(codec[6]) for codec in row] for row in stored])
    assert bits.mean() == 3 and set(bits.ravel()) == {2, 3, 4}
    assert plan["bytes"] == sum(e.bytes for layer in manifest.experts for e in layer.experts)
    assert decide.described([], []) == {"unit": "model", "fates": {}, "notes": []}


def test_the_plan_is_a_bound_before_and_exact_after_the_first_run(recipe, model, tmp_path):
    loaded = recipe({"allocate": "gemq", "choices": [2, 3, 4], "size": "250KiB"})
    before = planned(loaded, model, tmp_path / "cache")
    assert not before.exact and not (tmp_path / "cache").exists()
    manifest = run_recipe(loaded, model, tmp_path / "out", tmp_path / "cache").manifest
    after = planned(loaded, model, tmp_path / "cache")
    assert after.exact and after.weight_bytes == manifest.size.weight_bytes <= before.weight_bytes
    experts = sum((tmp_path / "out" / layer.file).stat().st_size for layer in manifest.experts)
    assert experts <= 250 << 10
    assert before.weight_bytes - after.weight_bytes < 16 << 10
    free = recipe({"allocate": "random", "choices": [2, 4], "average": 4.5})
    assert planned(free, model, tmp_path / "cache").exact, "chance needs no measurement"


def test_gradients_show_in_the_plan(recipe, model, tmp_path):
    with_gradients, without = (
        planned(recipe({"allocate": name, "average": 4.5}), model, tmp_path) for name in ("gemq", "pmq")
    )
    assert "text_gradient" in with_gradients.statistics and "text_gradient" not in without.statistics
    assert with_gradients.peak_memory_bytes > without.peak_memory_bytes
    assert with_gradients.statistics_disk_bytes > without.statistics_disk_bytes


def test_another_budget_measures_nothing_again(recipe, model, tmp_path, monkeypatch):
    first = decision(run_recipe(recipe(), model, tmp_path / "o0", tmp_path / "cache").manifest)
    monkeypatch.setattr("moecompress.passes.sensitivity.swap._errors", None)
    other = recipe({"allocate": "gemq", "choices": [2, 3, 4], "average": 2.5, "count": "nominal"})
    second = decision(run_recipe(other, model, tmp_path / "o1", tmp_path / "cache").manifest)
    assert second["bytes"] < first["bytes"] and second["predicted"] > first["predicted"]


def test_an_earlier_pass_changes_what_is_measured(recipe, model, tmp_path, monkeypatch):
    run_recipe(recipe(), model, tmp_path / "o0", tmp_path / "cache")
    path = tmp_path / "two.yaml"
    text = (tmp_path / "recipe.yaml").read_text()
    path.write_text(text.replace("passes:\n", "passes:\n  - quantize.trunk: {bits: 8}\n"))
    monkeypatch.setattr("moecompress.passes.sensitivity.swap._errors", None)
    with pytest.raises(TypeError):
        run_recipe(load_recipe(path), model, tmp_path / "o1", tmp_path / "cache")


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from moecompress.pipeline import answers, run, state
    from moecompress.recipe.load import load_recipe

    recipe, model, out, cache, moment = sys.argv[1:]
    put, decide, finish = answers.AnswerStore.put, state.RunState.decide, state.RunState.finish
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def put_once(self, probe, layer, answer):
        put(self, probe, layer, answer)
        if moment == "answer" and layer == 1: die()
    def decide_once(self, position, decision):
        decide(self, position, decision)
        if moment == "decision": die()
    def finish_once(self, entry):
        finish(self, entry)
        if moment == entry.unit: die()
    answers.AnswerStore.put, state.RunState.decide, state.RunState.finish = put_once, decide_once, finish_once
    run.run_recipe(load_recipe(Path(recipe)), Path(model), Path(out), Path(cache))
    """
)


@pytest.mark.parametrize("moment", ["answer", "decision", "layer-00000"])
def test_a_killed_run_ends_in_the_same_bytes(moment, recipe, model, tmp_path):
    loaded = recipe()
    whole = run_recipe(loaded, model, tmp_path / "whole", tmp_path / "other").manifest
    arguments = [str(loaded.path), str(model), str(tmp_path / "out"), str(tmp_path / "cache"), moment]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    result = run_recipe(loaded, model, tmp_path / "out", tmp_path / "cache")
    assert result.manifest == whole and result.manifest.artifact_hash == whole.artifact_hash
    assert result.resumed_units == (2 if moment.startswith("layer") else 0)


def test_a_decision_is_read_from_the_journal_and_not_made_again(recipe, model, tmp_path, monkeypatch):
    loaded = recipe()
    with pytest.raises(KeyboardInterrupt):
        run_recipe(loaded, model, tmp_path / "out", tmp_path / "cache", progress=Stops("compress"))
    monkeypatch.setattr(decide.Decisions, "_survey", None)
    assert decision(run_recipe(loaded, model, tmp_path / "out", tmp_path / "cache").manifest)["exact"]


class Stops:
    """A progress that interrupts when a task begins."""

    def __init__(self, task):
        self.task = task

    def start(self, task, total, unit=""):
        if task == self.task:
            raise KeyboardInterrupt

    def advance(self, amount=1):
        pass

    def finish(self):
        pass

    def log(self, line, details=None):
        pass


@pytest.mark.parametrize(
    ("bits", "line", "words"),
    [
        ("{allocate: gemk, average: 3}", 7, ["'gemk'", "'gemq'"]),
        ("{allocate: gemq, choices: [2, 3], average: 1.5}", 7, ["bits.average", "smallest of the choices has 2 bits"]),
        ("{allocate: gemq, average: 3, size: 1MiB}", 7, ["one budget", "average and size"]),
        ("{allocate: pmq}", 7, ["one budget, average or size", "none"]),
        ("{allocate: edgemoe, tolerance: lots}", 7, ["bits.tolerance", "percentage such as 2%"]),
        ("{allocate: edge, average: 3, memory: much}", 7, ["bits.memory", "share such as 50%"]),
        ("{allocate: gemq, average: 3, choices: [2, 2]}", 7, ["bits.choices", "named twice"]),
        ("{allocate: gemq, average: 3, speed: 1}", 7, ["speed"]),
        ("{allocate: gemq, average: 3, floors: {middle: 2}}", 7, ["middle"]),
    ],
)
def test_refusals_name_line_key_and_what_is_meant(bits, line, words, recipe, tmp_path):
    recipe()
    path = tmp_path / "recipe.yaml"
    text = path.read_text()
    path.write_text(text[: text.index("bits:")] + f"bits: {bits}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:{line}:"), caught.value
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (
            {"allocate": "gemq", "choices": [2, 3], "average": 2.2},
            r"bits\.average: average is 2\.2 effective bits.*at least",
        ),
        ({"allocate": "gemq", "choices": [2, 3], "size": "20KiB"}, r"bits\.size: size is 20 KiB.*at least"),
        ({"allocate": "gemq", "average": 4.5, "floors": {"down": 7}}, r"bits\.floors: the floor of down .* is 7 bits"),
    ],
)
def test_budgets_that_the_model_cannot_meet_name_the_key(bits, words, recipe, model, tmp_path):
    with pytest.raises(RecipeError, match=words) as caught:
        run_recipe(recipe(bits), model, tmp_path / "out", tmp_path / "cache")
    places = (f"{tmp_path / 'recipe.yaml'}:", "--set passes.0.quantize.experts.bits=")
    assert str(caught.value).startswith(places) and "passes.0.quantize.experts.bits" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_floors_by_place_may_be_written_with_numbers_as_keys(recipe, tmp_path):
    recipe()
    path = tmp_path / "recipe.yaml"
    path.write_text(path.read_text().replace("average: 3,", "average: 3, floors: {down: 3, first_layers: {2: 4}},"))
    floors = load_recipe(path).steps[0].options.bits.floors
    assert floors.down == 3 and floors.first_layers == {2: 4}
    assert [floors.least("up", position, 4) for position in range(4)] == [4, 4, 1, 1]
    assert [floors.least("down", position, 4) for position in range(4)] == [4, 4, 3, 3]


def test_needs_are_those_of_the_allocator_and_of_the_method():
    def needs(**values):
        return PASS.needs(PASS.options.model_validate(values))

    gemq = {"allocate": "gemq", "average": 3}
    assert "text_gradient" in needs(method="rtn", bits=gemq) and "gram_layer" not in needs(method="rtn", bits=gemq)
    assert {"text_gradient", "gram_layer"} <= needs(method="gptq", bits={**gemq, "rounding": "same"})
    assert needs(method="rtn", bits={"allocate": "random", "average": 3}) == frozenset()
