"""scripts/quickstart as its users run it, in the environment that is already there."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_quickstart_prints_one_json_object_and_leaves_a_report(tmp_path):
    done = subprocess.run(
        [ROOT / "scripts" / "quickstart", "--json", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["artifact"]) >= {"path", "bytes", "bits_per_weight", "perplexity", "kl_mean", "top1_agreement"}
    assert result["artifact"]["bytes"] < 0.5 * result["original"]["bytes"]
    assert result["artifact"]["perplexity"] < 1.05 * result["original"]["perplexity"]
    assert result["generate"]["peak_rss_bytes"] <= result["generate"]["budget_bytes"]
    assert result["generate"]["text"].strip()
    assert result["seconds"] > 0
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
