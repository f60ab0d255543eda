"""The commands as a user meets them: one tiny model from recipe to text, and what is refused on the way."""

import json
import re
import shutil

import pytest

RECIPE = """\
version: 1
calibration: {source: TEXT, tokens: 512, sequence_length: 64}
passes:
  - quantize.experts: {method: gptq, bits: 4, group_size: 32}
  - quantize.trunk: {method: rtn, bits: 8, group_size: 32}
evaluate: {text: [EVAL], window: 32, windows: 6}
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, start in (("calibration", 0), ("held", 5000)):
        lines = [f"line {i}: the quick brown fox jumps over {i * i} lazy dogs" for i in range(start, start + 400)]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def recipe(tmp_path, texts):
    path = tmp_path / "recipe.yaml"
    text = RECIPE.replace("TEXT", str(texts / "calibration.txt")).replace("EVAL", str(texts / "held.txt"))
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def artifact(tiny, texts, tmp_path_factory):
    """A compressed tiny model, made once for the tests that only read it."""
    from moecompress.pipeline.run import run_recipe
    from moecompress.recipe.load import load_recipe

    folder = tmp_path_factory.mktemp("artifact")
    (folder / "recipe.yaml").write_text(RECIPE.replace("TEXT", str(texts / "calibration.txt")).replace("EVAL", "x"))
    run_recipe(load_recipe(folder / "recipe.yaml"), tiny("qwen3_moe"), folder / "out", folder / "cache")
    return folder / "out"


def test_plan_then_run_then_verify_inspect_eval_generate(command, recipe, tiny, tmp_path, texts):
    model, out = tiny("qwen2_moe"), tmp_path / "artifact"
    plan = command("plan", recipe, "--model", model, "--json", as_json=True)
    assert not out.exists()
    outcome = command("run", recipe, "--model", model, "--out", out, "--json", as_json=True)
    assert outcome["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert 0 <= outcome["bytes"] - plan["artifact_bytes"] < 200_000
    assert 0 < plan["device"]["floor_bytes"] <= plan["device"]["resident_bytes"]
    assert plan["device_interpreter_bytes"] < 100 << 20
    measured = outcome["evaluation"]
    assert measured["artifact"]["perplexity"] / measured["original"]["perplexity"] < 1.2
    assert 0 < measured["artifact"]["kl_mean"] < 0.5
    assert command("verify", out, "--json", as_json=True)["artifact_hash"] == outcome["artifact_hash"]
    facts = command("inspect", out, "--json", as_json=True)
    assert facts["bytes"] == outcome["bytes"]
    assert facts["bits_per_weight"] == pytest.approx(outcome["bits_per_weight"])
    assert facts["layers"][0]["experts"][0]["gate"] == pytest.approx(5, abs=0.01)
    evaluated = command(
        "eval",
        out,
        "--against",
        model,
        "--text",
        texts / "held.txt",
        "--window",
        32,
        "--windows",
        6,
        "--json",
        as_json=True,
    )
    assert evaluated["perplexity"] == pytest.approx(measured["artifact"]["perplexity"])
    assert set(evaluated) >= {"perplexity", "stderr", "tokens", "kl_mean", "kl_p99", "top1_agreement"}
    generated = command("generate", out, "--prompt", "the quick", "--max-tokens", 8, "--json", as_json=True)
    assert generated["completion_tokens"] <= 8
    assert generated["peak_rss_bytes"] <= generated["budget_bytes"]


def test_both_engines_measure_the_same(command, artifact, tiny, texts):
    arguments = ("eval", artifact, "--text", texts / "held.txt", "--window", 32, "--windows", 4, "--json")
    native, bridge = (command(*arguments, "--engine", engine, as_json=True) for engine in ("native", "transformers"))
    assert native["perplexity"] == pytest.approx(bridge["perplexity"], rel=2e-3)


def test_generate_runs_where_torch_cannot_be_imported(command, artifact, tmp_path):
    blocker = tmp_path / "blocked"
    blocker.mkdir()
    for name in ("torch", "transformers", "datasets", "accelerate", "safetensors", "scipy"):
        (blocker / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here', name='{name}')")
    done = command("generate", artifact, "--prompt", "fox", "--max-tokens", 4, PYTHONPATH=str(blocker))
    assert done.stdout.strip()
    command("inspect", artifact, PYTHONPATH=str(blocker))
    command("verify", artifact, PYTHONPATH=str(blocker))
    refused = command("run", "recipe.yaml", "--model", "builtin", code=2, PYTHONPATH=str(blocker))
    assert "moecompress[compress]" in refused.stderr


def test_a_budget_below_the_floor_names_the_smallest_that_works(command, artifact):
    refused = command("generate", artifact, "--prompt", "x", "--memory", "1MiB", code=2)
    smallest = int(re.search(r"smallest that works is (\d+) MiB", " ".join(refused.stderr.split()))[1]) << 20
    generated = command(
        "generate", artifact, "--prompt", "x", "--memory", smallest, "--max-tokens", 4, "--json", as_json=True
    )
    assert generated["peak_rss_bytes"] <= smallest


def test_the_same_seed_gives_the_same_text(command, artifact):
    arguments = ("generate", artifact, "--prompt", "dogs", "--temperature", 1.0, "--max-tokens", 12, "--json")
    texts = [command(*arguments, "--seed", seed, as_json=True)["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_missed_gate_fails_and_keeps_the_marked_artifact(command, recipe, tiny, tmp_path):
    out = tmp_path / "artifact"
    arguments = ("run", recipe, "--model", tiny("mixtral"), "--out", out, "--set", "gates.kl_mean=0.0000001")
    failed = command(*arguments, code=1)
    assert "kept" in failed.stderr and "KL" in failed.stderr
    assert json.loads((out / "manifest.json").read_text())["evaluation"]["artifact"]["kl_mean"] > 0
    assert "exists" in command(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "nowhere.yaml"), 2, "Cannot read"),
        (("generate", "nowhere", "--prompt", "x"), 1, "nowhere"),
        (("inspect", "nowhere"), 2, "no folder"),
        (("verify", "nowhere"), 1, "nowhere"),
        (("generate",), 2, "artifact"),
        (("frobnicate",), 2, "frobnicate"),
        (("eval", "nowhere/model"), 1, "nowhere/model"),
    ],
)
def test_bad_requests_are_sentences_with_the_right_exit_code(command, arguments, code, words):
    done = command(*arguments, code=code, HF_HUB_OFFLINE="1")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_flipped_byte_is_found_by_verify(command, artifact, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(artifact, broken)
    file = broken / "trunk.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert "trunk.safetensors" in command("verify", broken, code=1).stderr


def test_calibration_text_cannot_be_evaluation_text(command, recipe, texts, tiny, tmp_path):
    arguments = ("run", recipe, "--model", tiny("olmoe"), "--out", tmp_path / "out")
    refused = command(*arguments, "--set", f"evaluate.text=[{texts / 'calibration.txt'}]", code=2)
    assert "flatter" in refused.stderr
    assert not (tmp_path / "out").exists()
