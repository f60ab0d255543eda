"""`doctor` in a process of its own: the machine alone, and what an artifact would do on it."""

from __future__ import annotations

import json
import re


def test_the_machine_alone(command):
    report = command("doctor", "--json", as_json=True)
    machine = report["machine"]
    assert set(report) == {"machine", "verdict"} and machine["cores"]["usable"] >= 1
    assert sum(path["chosen"] for path in machine["instruction_sets"]) == 1
    assert machine["memory"]["budget_bytes"] < machine["memory"]["obtainable_bytes"]
    assert all(speed > 1e8 for speed in machine["read_speed_bytes_per_s"].values())


def test_an_artifact_with_memory_enough(command, endless):
    report = command("doctor", endless, "--threads", 1, "--json", as_json=True)
    artifact = report["artifact"]
    assert artifact["floor_bytes"] <= artifact["resident_bytes"] and artifact["plan"]["resident"]
    assert artifact["token_set"]["experts"] == 4 and artifact["experts"] == 16
    rows = artifact["budgets"]
    assert rows[0]["budget_bytes"] == artifact["floor_bytes"] and rows[-1]["resident"]
    assert [row["slots"] for row in rows] == sorted(row["slots"] for row in rows)
    assert report["verdict"].startswith("Every expert stays in memory, at an estimated ")
    assert isinstance(report["disk"]["direct"], bool)


def test_too_little_memory_is_a_verdict_and_its_number_works(command, endless):
    report = command("doctor", endless, "--memory", "20MiB", "--threads", 1, "--json", as_json=True)
    assert report["artifact"]["plan"] is None
    floor = re.search(r"does not run in 20 MiB.*needs at least ([\d.]+) MiB", report["verdict"])
    budget = f"{int(float(floor[1])) + 3}MiB"
    generated = command(
        "generate", endless, "--prompt", "x", "--max-tokens", 4, "--memory", budget, "--threads", 1, "--json"
    )
    result = json.loads(generated.stdout)
    assert result["peak_rss_bytes"] <= result["budget_bytes"]


def test_the_tables_end_with_the_verdict(command, endless):
    done = command("doctor", endless, "--threads", 1)
    for words in ("instruction sets", "memory read speed", "direct reads", "a token needs", "tokens/s (est.)"):
        assert words in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("Every expert stays in memory")


def test_what_is_no_artifact_is_refused(command, tmp_path):
    assert "manifest.json" in command("doctor", tmp_path, code=1).stderr
