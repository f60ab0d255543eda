"""`moecompress profile` from the command line: JSON alone on stdout, a page where it is asked for."""

import json

import pytest
from typer.testing import CliRunner

from moecompress.cli.main import build_app


@pytest.fixture
def run(tiny, tmp_path):
    def _run(*arguments):
        command = ["profile", str(tiny("mixtral")), "--cache", str(tmp_path / "cache"), *arguments]
        result = CliRunner().invoke(build_app("profile"), command, catch_exceptions=False)
        assert result.exit_code == 0
        return result

    return _run


def test_json_and_page(run, tmp_path):
    page = tmp_path / "profile.html"
    values = json.loads(run("--tokens", "256", "--out", str(page), "--json").stdout)
    assert len(values["layers"]["0"]) == 8 and values["layers"]["0"][0]["nats"].keys() == {"2", "3", "4"}
    assert any(sentence.startswith("Safest at 2 bits") for sentence in values["findings"])
    assert "<svg" in page.read_text()


def test_the_weights_alone_in_the_terminal(run):
    shown = run("--weights-only").stdout
    assert "kurtosis (worst)" in shown and "use of experts" not in shown and "•" in shown


def test_a_recipe_names_the_text(run, tmp_path):
    text, recipe = tmp_path / "text.txt", tmp_path / "recipe.yaml"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 300)
    recipe.write_text(f"version: 1\ncalibration: {{source: {text}, tokens: 512, sequence_length: 64}}\n")
    values = json.loads(run("--recipe", str(recipe), "--tokens", "256", "--json").stdout)
    assert values["text"].startswith(f"4 sequences of 64 tokens from {text}")
