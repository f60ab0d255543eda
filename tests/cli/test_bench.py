"""`bench` in a process of its own: what it reports, on which text, and what it refuses."""

from __future__ import annotations

import re

import pytest

SMALL = ("--prompt-tokens", 48, "--tokens", 16, "--repeats", 2, "--threads", 1)


def test_the_report_is_complete_and_consistent(command, endless):
    report = command("bench", endless, *SMALL, "--json", as_json=True)
    assert {"artifact", "artifact_hash", "isa", "text", "expert_cache", "experts", "disk"} <= set(report)
    assert report["prompt_tokens"] == 48 and report["tokens"] == 16 and report["text"] == "builtin"
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "seconds_to_first_token"):
        figure = report[name]
        assert 0 < figure["least"] <= figure["median"] <= figure["most"]
    weights, memory = report["weights"], report["memory"]
    assert weights["bytes_per_token"] == weights["trunk_bytes"] + weights["expert_bytes"]
    speed = report["decode_tokens_per_s"]["median"] * weights["bytes_per_token"]
    assert weights["share_of_read_speed"] == pytest.approx(speed / weights["read_speed_bytes_per_s"])
    assert memory["held"] and memory["peak_rss_bytes"] <= memory["budget_bytes"] == memory["plan"]["budget"]
    assert report["disk"]["agree"]


def test_the_plan_comes_before_the_table_and_the_budget_holds(command, endless, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the story goes on and on, and then some more of it comes. " * 200)
    floor = re.search(
        r"works is (\d+) MiB", " ".join(command("bench", endless, "--memory", "1MiB", code=2).stderr.split())
    )
    done = command("bench", endless, *SMALL, "--memory", f"{floor[1]}MiB", "--text", text)
    assert done.stderr.startswith("memory: ") and "in memory" in done.stderr and "interpreter" in done.stderr
    assert "prefill" in done.stdout and "decode" in done.stdout and "over the budget" not in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--context", 32), "do not fit the context of 32"),
        (("--text", "SHORT"), "Give a longer --text"),
        (("--policy", "lruu"), "Did you mean 'lru'"),
    ],
)
def test_what_cannot_be_measured_is_refused(command, endless, tmp_path, options, words):
    (tmp_path / "short.txt").write_text("too short")
    options = [tmp_path / "short.txt" if option == "SHORT" else option for option in options]
    refused = command("bench", endless, *SMALL, *options, code=2)
    assert words in " ".join(refused.stderr.split()) and refused.stdout == ""
