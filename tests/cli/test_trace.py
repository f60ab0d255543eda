"""`trace` and `replay` as a user meets them."""

import json

import pytest

from moecompress.runtime.trace import read_trace


@pytest.fixture(scope="module")
def artifact(tiny, tmp_path_factory):
    """A calibrated artifact of a tiny model: it holds priors."""
    from moecompress.pipeline.run import run_recipe
    from moecompress.recipe.load import load_recipe

    folder = tmp_path_factory.mktemp("traced")
    (folder / "text.txt").write_text("\n".join(f"line {i}: a quick brown fox and {i * i} dogs" for i in range(300)))
    recipe = {"version": 1, "calibration": {"source": str(folder / "text.txt"), "tokens": 512, "sequence_length": 64}}
    recipe["passes"] = [{"quantize.experts": {"method": "gptq", "bits": 4, "group_size": 32}}]
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    run_recipe(load_recipe(folder / "recipe.yaml"), tiny("qwen3_moe"), folder / "out", folder / "cache")
    return folder / "out"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"row {i}: the lazy dogs and {i + 7} foxes" for i in range(200)))
    return path


def test_trace_then_replay(command, artifact, text, tmp_path):
    out = tmp_path / "text.trace"
    told = command("trace", artifact, "--text", text, "--tokens", 300, "--out", out, "--json", as_json=True)
    trace = read_trace(out)
    assert told["tokens"] == trace.header.tokens == 300 and told["bytes"] == out.stat().st_size
    assert told["artifact_hash"] == trace.header.artifact_hash
    report = command("replay", out, "--artifact", artifact, "--json", as_json=True)
    layers, top_k = told["layers"], told["top_k"]
    assert [row["token_sets"] for row in report["capacities"]][:4] == [0.5, 0.75, 1.0, 1.5]
    assert report["token_set"] == layers * top_k
    for row in report["capacities"]:
        assert list(row["hit_rate"]) == ["edgemoe", "expected", "lfu", "lru", "belady"]
        assert max(row["hit_rate"].values()) == row["hit_rate"]["belady"]
        assert min(row["bytes_per_token"].values()) == row["bytes_per_token"]["belady"]
    assert list(report["predictors"]) == ["edgemoe", "popularity", "router"]
    shown = command("replay", out, "--policy", "lru", "--capacities", "1T, 6", "--skip", 10).stdout
    assert "290 tokens" in shown and "token sets" in shown and "lru" in shown and "belady" not in shown
    assert "predictor router" in shown and "predictor edgemoe" not in shown


def test_what_is_refused(command, artifact, text, tmp_path):
    trace = tmp_path / "x.trace"
    command("trace", artifact, "--text", text, "--tokens", 20, "--out", trace)
    assert "Allowed: edgemoe, expected, lfu, lru" in command("replay", trace, "--policy", "mru", code=2).stderr
    assert "is 1 experts" in command("replay", trace, "--capacities", "1", code=2).stderr
    assert "a header of" in command("replay", text, code=1).stderr
    nothing = command("trace", artifact, "--text", tmp_path / "no", "--out", tmp_path / "y", code=2)
    assert "No such file" in nothing.stderr and not (tmp_path / "y").exists()


def test_a_trace_of_another_artifact_is_refused(artifact, text, tmp_path):
    from moecompress.cli.commands.replay import COMMAND
    from moecompress.core.errors import UsageError
    from moecompress.runtime.engine import Engine
    from moecompress.runtime.recording import TracedText, record_trace
    from moecompress.testing.artifacts import random_artifact

    with Engine.open(artifact, threads=1) as engine:
        record_trace(engine, [TracedText("a", [1, 2, 3])], tmp_path / "x.trace")
    random_artifact(tmp_path / "work", tmp_path / "other")
    with pytest.raises(UsageError, match="Give the artifact of the trace"):
        COMMAND(tmp_path / "x.trace", skip=0, artifact=tmp_path / "other")
