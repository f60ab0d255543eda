"""`generate` in processes of its own: what it prints, and that Ctrl-C ends the text but not the figures."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def test_text_goes_to_stdout_and_figures_to_stderr(command, endless):
    arguments = ("generate", endless, "--prompt", "the story", "--max-tokens", 12, "--threads", 1)
    plain = command(*arguments)
    result = command(*arguments, "--json", as_json=True)
    assert plain.stdout == result["text"] + "\n" and plain.stderr.startswith("12 tokens, ")
    assert result["completion_tokens"] == 12 and result["finish_reason"] == "length"
    assert result["peak_rss_bytes"] <= result["budget_bytes"]


@pytest.mark.parametrize("options", [("--policy", "lfu"), ("--io", "buffered"), ("--lanes", 1), ("--threads", 2)])
def test_options_of_the_engine_do_not_change_the_text(command, endless, options):
    arguments = ("generate", endless, "--prompt", "the story", "--max-tokens", 12, "--json")
    assert command(*arguments, *options, as_json=True)["text"] == command(*arguments, as_json=True)["text"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--policy", "lruu"), "Did you mean 'lru'"),
        (("--io", "psychic"), "Allowed: automatic, buffered, direct"),
        (("--memory", "lots"), "not a size"),
        (("--context", "70000"), "trained for 1 to 65536"),
        (("--threads", "0"), "threads"),
    ],
)
def test_options_that_cannot_be_are_refused(command, endless, options, words):
    refused = command("generate", endless, "--prompt", "x", *options, code=2)
    assert words in " ".join(refused.stderr.split()) and refused.stdout == ""


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_ends_the_text_and_shows_what_there_is(start, endless, as_json):
    arguments = ("--context", 60000, "--max-tokens", 50000, "--threads", 1)
    process = start("generate", endless, "--prompt", "the story", *arguments, *(["--json"] if as_json else []))
    begun = "" if as_json else process.stdout.read(20)
    if as_json:
        _wait_until_generating(process.pid)
    process.send_signal(signal.SIGINT)
    rest, figures = process.communicate(timeout=60)
    assert process.returncode == 130
    if as_json:
        result = json.loads(rest)
        assert result["finish_reason"] == "cancelled" and 0 < result["completion_tokens"] < 50000
    else:
        assert len(begun) == 20 and rest.endswith("\n") and " tokens/s, peak memory " in figures
    assert "Traceback" not in figures


def test_ctrl_c_ends_the_reading_of_a_prompt(start, endless):
    process = start("generate", endless, "--prompt", "-", "--context", 60000, "--threads", 2, "--json")
    process.stdin.write("the story goes on " * 4000)
    process.stdin.close()
    process.stdin = None
    _wait_until_prefill(process.pid)
    process.send_signal(signal.SIGINT)
    out, figures = process.communicate(timeout=60)
    assert process.returncode == 130, figures
    result = json.loads(out)
    assert result["completion_tokens"] == 0 and result["finish_reason"] == "cancelled" and result["text"] == ""


def _wait_until_generating(pid: int) -> None:
    """Until the main thread has computed for a while after the engine made its threads."""
    _wait(lambda: len(_ticks(pid)) > 1)
    before = _ticks(pid)[pid]
    _wait(lambda: _ticks(pid)[pid] > before + 20)


def _wait_until_prefill(pid: int) -> None:
    """Until another thread than the main one, which tokenizes, has computed for a while."""
    _wait(lambda: any(count > 5 for thread, count in _ticks(pid).items() if thread != pid))


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, "the process did not get there within a minute"
        time.sleep(0.02)


def _ticks(pid: int) -> dict[int, int]:
    """Thread → hundredths of a second it has computed in user mode."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(task.name): int((task / "stat").read_text().rsplit(")", 1)[1].split()[11]) for task in tasks}
