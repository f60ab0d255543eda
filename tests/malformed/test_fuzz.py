"""Damaged artifacts and hostile calls into the core: an error of this project or the right output, whatever comes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moecompress.testing.damage_kinds import KINDS


def fuzz(target: str, artifact: Path, seed: int, cases: int, first: int = 0) -> dict[str, Any]:
    """The summary of a run in a process of its own, which has no threads and has not imported torch."""
    numbers = [str(word) for word in ("--seed", seed, "--first", first, "--cases", cases)]
    command = [sys.executable, "-m", "moecompress.testing.fuzz", target, artifact, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(str(word) for word in command)}\n{done.stderr[-6000:]}"
    summary: dict[str, Any] = json.loads(done.stdout)
    assert sum(summary["endings"].values()) == cases
    return summary


def kinds(summary: dict[str, Any]) -> set[str]:
    return {ending.partition(":")[0] for ending in summary["endings"]}


def share(summary: dict[str, Any], words: str) -> float:
    return sum(count for ending, count in summary["endings"].items() if words in ending) / summary["cases"]


def test_three_hundred_damaged_artifacts(runnable):
    summary = fuzz("artifact", runnable, seed=1, cases=300)
    assert kinds(summary) == set(KINDS)
    # Damage has to reach what lies behind the first checks: some is found by the engine alone, some does no harm.
    assert share(summary, "fine, fine, ") > 0.25 and share(summary, ", fine, fine") > 0.1
    assert share(summary, "fine, fine, ArtifactError") > 0.02 and share(summary, "RequestError") > 0.05


def test_two_thousand_calls_into_the_core(runnable):
    summary = fuzz("core", runnable, seed=1, cases=2000)
    assert len(kinds(summary)) == 13
    assert 0.1 < share(summary, "result") < 0.6 and share(summary, "ValueError") > 0.15


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 5000])
def test_ten_thousand_damaged_artifacts(runnable, first):
    fuzz("artifact", runnable, seed=2, cases=5000, first=first)


@pytest.mark.slow
def test_fifty_thousand_calls_into_the_core(runnable):
    fuzz("core", runnable, seed=2, cases=50_000)


def test_a_case_is_the_same_whenever_it_is_run(runnable):
    together = fuzz("artifact", runnable, seed=3, cases=3, first=20)["endings"]
    apart: dict[str, int] = {}
    for number in range(20, 23):
        for ending, count in fuzz("artifact", runnable, seed=3, cases=1, first=number)["endings"].items():
            apart[ending] = apart.get(ending, 0) + count
    assert apart == together
