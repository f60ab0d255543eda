"""Whole runs on tiny real models: parity of what is kept, resume to the same bytes, refusals that write nothing."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from moecompress.artifact.checks import is_weight_file
from moecompress.artifact.manifest import PRIORS
from moecompress.artifact.reader import ArtifactReader, read_manifest
from moecompress.artifact.verify import verify
from moecompress.codecs.table import codec_of
from moecompress.core.errors import BudgetError, CoverageError, UsageError
from moecompress.models.discover import discover
from moecompress.models.experts import read_expert
from moecompress.models.source import TensorSource
from moecompress.pipeline.plan import make_plan
from moecompress.pipeline.run import run_recipe
from moecompress.recipe.load import load_recipe

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
RECIPE = """\
version: 1
calibration: {source: TEXT, tokens: 512, sequence_length: 64}
passes:
  - quantize.experts: {method: METHOD, bits: {gate: 3, up: 3, down: 4}, group_size: 32}
  - quantize.trunk: {method: rtn, bits: 8, group_size: 32}
"""


@pytest.fixture
def recipe(tmp_path):
    def _recipe(method="rtn", extra="", overrides=()):
        text = tmp_path / "text.txt"
        text.write_text("\n".join(f"line {i}: the quick brown fox jumps over {i * i} lazy dogs" for i in range(400)))
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace("TEXT", str(text)).replace("METHOD", method) + extra)
        return load_recipe(path, overrides)

    return _recipe


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_gives_a_verified_artifact_with_every_parameter_accounted_for(family, tiny, recipe, tmp_path):
    model = tiny(family)
    result = run_recipe(recipe("gptq"), model, tmp_path / "out", tmp_path / "cache")
    verify(tmp_path / "out")
    manifest = result.manifest
    source = TensorSource.open(model)
    layout = discover(source)
    experts = sum(3 * moe.experts * moe.width * moe.hidden for moe in layout.moe.values())
    trunk = sum(int(np.prod(tensor.shape)) for tensor in layout.trunk)
    assert manifest.size.parameters == experts + trunk
    fates = {name: fate for unit in manifest.provenance.passes for name, fate in unit["fates"].items()}
    for index in layout.moe:
        assert {fates[f"layers.{index}.experts.*.{p}"] for p in ("gate", "up", "down")} == {"quantize.experts"}
    for tensor in layout.trunk:
        expected = "quantize.trunk" if tensor.role in ("attention", "shared_expert", "dense_ffn") else "kept"
        if len(tensor.shape) == 2:
            assert fates[tensor.name] == expected, tensor.name


def test_kept_tensors_are_bit_identical_and_quantized_ones_close(tiny, recipe, tmp_path):
    model = tiny("mixtral")
    run_recipe(recipe(), model, tmp_path / "out", tmp_path / "cache")
    source = TensorSource.open(model)
    layout = discover(source)
    with ArtifactReader(tmp_path / "out") as artifact:
        for tensor in layout.trunk:
            stored = artifact.trunk(tensor.name)
            values = torch.from_numpy(codec_of(stored.spec).dequantize(stored))
            original = source.read(tensor.name).float()
            if stored.spec.codec == "dense":
                assert torch.equal(values, original), tensor.name
            else:
                assert (values - original).norm() / original.norm() < 0.02
        moe = layout.moe[0]
        stored = artifact.expert(0, 3)["down"]
        original = read_expert(source, moe, 3)["down"].float()
        error = (torch.from_numpy(codec_of(stored.spec).dequantize(stored)) - original).norm() / original.norm()
        assert 0.01 < error < 0.2


def test_the_plan_is_exact_to_the_byte(tiny, recipe, tmp_path):
    model = tiny("qwen2_moe")
    source = TensorSource.open(model)
    loaded = recipe()
    plan = make_plan(loaded, source, discover(source))
    manifest = run_recipe(loaded, model, tmp_path / "out", tmp_path / "cache").manifest
    assert plan.weight_bytes == manifest.size.weight_bytes
    assert plan.parameters == manifest.size.parameters
    assert plan.bits_per_weight == pytest.approx(manifest.size.bits_per_weight)


def test_data_free_recipes_read_no_text_and_keep_no_statistics(tiny, recipe, tmp_path):
    loaded = recipe("rtn", overrides=["calibration.source=/does/not/exist"])
    manifest = run_recipe(loaded, tiny("olmoe"), tmp_path / "out", tmp_path / "cache").manifest
    assert manifest.provenance.calibration_hash is None
    assert PRIORS not in manifest.files
    assert not (tmp_path / "cache").exists()


def test_calibrated_recipes_leave_priors_of_the_original_routing(tiny, recipe, tmp_path):
    loaded, source = recipe("gptq"), TensorSource.open(tiny("qwen2_moe"))
    plan = make_plan(loaded, source, discover(source))
    run_recipe(loaded, tiny("qwen2_moe"), tmp_path / "out", tmp_path / "cache")
    with ArtifactReader(tmp_path / "out") as artifact:
        experts = [len(layer.experts) for layer in artifact.manifest.experts]
        popularity = np.frombuffer(artifact.priors().popularity, "<f4").reshape(len(experts), -1)
        assets = [file.bytes for name, file in artifact.manifest.files.items() if not is_weight_file(name)]
    np.testing.assert_allclose(popularity.sum(axis=1), discover(source).moe[1].top_k, rtol=1e-5)
    assert plan.asset_bytes == sum(assets) - artifact.manifest.files["README.md"].bytes


def test_the_same_run_gives_the_same_hash_and_other_bits_another(tiny, recipe, tmp_path):
    model, cache = tiny("qwen3_moe"), tmp_path / "cache"
    hashes = [run_recipe(recipe("gptq"), model, tmp_path / f"o{i}", cache).manifest.artifact_hash for i in range(2)]
    other = recipe("gptq", overrides=["passes.0.quantize.experts.bits=2"])
    assert hashes[0] == hashes[1]
    assert run_recipe(other, model, tmp_path / "o2", cache).manifest.artifact_hash != hashes[0]


def test_an_existing_output_folder_is_refused_and_untouched(tiny, recipe, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("keep me")
    with pytest.raises(UsageError, match="exists"):
        run_recipe(recipe(), tiny("mixtral"), out, tmp_path / "cache")
    assert (out / "precious").read_text() == "keep me"
    assert not (tmp_path / "out.work").exists()


def test_an_unreachable_budget_is_refused_before_anything_is_written(tiny, recipe, tmp_path):
    with pytest.raises(BudgetError, match=r"budget\.size is 10 KiB"):
        run_recipe(recipe(extra="budget: {size: 10KiB}\n"), tiny("mixtral"), tmp_path / "out", tmp_path / "cache")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.work").exists()


def test_a_tensor_that_no_unit_reads_fails_the_run_and_names_it(tiny, recipe, tmp_path, monkeypatch):
    def forgets(source, layout, index):
        layer, names = read_unit(source, layout, index)
        return layer, [name for name in names if "k_proj" not in name]

    from moecompress.pipeline import run
    from moecompress.pipeline.units import read_unit

    monkeypatch.setattr(run, "read_unit", forgets)
    with pytest.raises(CoverageError, match=r"layers\.0\.self_attn\.k_proj"):
        run_recipe(recipe(), tiny("mixtral"), tmp_path / "out", tmp_path / "cache")
    assert not (tmp_path / "out").exists()


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from moecompress.pipeline import run
    from moecompress.pipeline.state import RunState
    from moecompress.recipe.load import load_recipe

    recipe, model, out, cache, moment = sys.argv[1:]
    finish, put = RunState.finish, run.ArtifactBuilder.put_experts
    def die_after_unit(self, entry):
        finish(self, entry)
        if entry.unit == moment: os.kill(os.getpid(), signal.SIGKILL)
    def die_before_unit_ends(self, layer, experts):
        put(self, layer, experts)
        if f"experts-{layer}" == moment: os.kill(os.getpid(), signal.SIGKILL)
    RunState.finish, run.ArtifactBuilder.put_experts = die_after_unit, die_before_unit_ends
    run.run_recipe(load_recipe(Path(recipe)), Path(model), Path(out), Path(cache))
    """
)


@pytest.mark.parametrize("moment", ["outside", "layer-00000", "experts-1"])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(moment, tiny, recipe, tmp_path):
    model, loaded = tiny("mixtral"), recipe("gptq")
    whole = run_recipe(loaded, model, tmp_path / "whole", tmp_path / "cache").manifest
    arguments = [str(loaded.path), str(model), str(tmp_path / "out"), str(tmp_path / "cache"), moment]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out").exists()
    result = run_recipe(loaded, model, tmp_path / "out", tmp_path / "cache")
    assert result.resumed_units >= 1
    assert result.manifest.artifact_hash == whole.artifact_hash
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "out").iterdir())
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    assert not (tmp_path / "out.work").exists()


def test_the_manifest_says_where_everything_comes_from(tiny, recipe, tmp_path):
    model = tiny("olmoe")
    run_recipe(recipe("gptq"), model, tmp_path / "out", tmp_path / "cache")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.provenance.source_hash == TensorSource.open(model).content_hash()
    assert manifest.provenance.recipe["passes"][0]["quantize.experts"]["method"] == "gptq"
    assert manifest.provenance.calibration_hash
    assert manifest.architecture.config == json.loads((model / "config.json").read_text())
