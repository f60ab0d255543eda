"""The wheel in an environment of its own, where torch is not installed: it imports, verifies and generates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RECIPE = "version: 1\npasses: [{quantize.experts: {method: rtn, bits: 4, group_size: 32}}]\n"


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_generates_without_torch(tiny, tmp_path):
    from moecompress.pipeline.run import run_recipe
    from moecompress.recipe.load import load_recipe

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run_recipe(load_recipe(tmp_path / "recipe.yaml"), tiny("mixtral"), tmp_path / "artifact", tmp_path / "cache")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "wheels", ROOT)
    (wheel,) = (tmp_path / "wheels").glob("moecompress-*.whl")
    assert wheel.stat().st_size < 25_000_000
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    missing = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'scipy') if u.find_spec(n)])"
    assert run(python, "-c", missing, cwd=tmp_path).strip() == "[]"
    command = tmp_path / "venv" / "bin" / "moecompress"
    run(command, "verify", tmp_path / "artifact", cwd=tmp_path)
    text = run(command, "generate", tmp_path / "artifact", "--prompt", "x", "--max-tokens", "8", "--json", cwd=tmp_path)
    result = json.loads(text)
    assert 0 < result["completion_tokens"] <= 8
    assert result["peak_rss_bytes"] <= result["budget_bytes"]


@pytest.mark.parametrize(
    "module", ["moecompress", "moecompress.runtime", "moecompress.artifact.reader", "moecompress.cli.main"]
)
def test_what_runs_artifacts_imports_no_torch(module):
    code = (
        f"import {module}, sys; print(sorted({{n.split('.')[0] for n in sys.modules}} & {{'torch', 'transformers'}}))"
    )
    assert run(sys.executable, "-c", code).strip() == "[]"
