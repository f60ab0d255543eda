"""`chat` through pipes and on a terminal: turns, commands, Ctrl-C, and a context that fills up."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys

import pytest


@pytest.fixture
def chat(endless):
    """Runs a chat that is told these lines; gives the finished process."""

    def _chat(*lines, code=0, options=()):
        command = [sys.executable, "-m", "moecompress.cli.main", "chat", str(endless), "--threads", "1"]
        command += ["--max-tokens", "6", *map(str, options)]
        text = "".join(f"{line}\n" for line in lines)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done

    return _chat


def _new_tokens(stderr: str) -> list[tuple[int, int]]:
    """(computed, all) prompt tokens of each turn."""
    words = [line.split("; ")[1].split() for line in stderr.splitlines() if "prompt tokens" in line]
    return [(int(row[0]), int(row[2])) for row in words]


def test_every_line_is_answered_and_the_turn_before_is_not_computed_again(chat):
    done = chat("the story", "", "  go on ", "/exit", "never read")
    turns = _new_tokens(done.stderr)
    assert len(turns) == 2 and turns[0][0] == turns[0][1]
    assert turns[1][0] < turns[1][1] and turns[1][1] > turns[0][1] + 6
    assert done.stdout.endswith("\n")


def test_an_answer_is_that_of_generate_on_the_same_conversation(chat, endless):
    from moecompress.runtime.engine import Engine

    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the story"}]
    with Engine.open(endless, threads=1) as engine:
        expected = engine.chat(messages, max_tokens=6).run().text
    assert chat("the story", options=("--system", "be brief")).stdout == expected + "\n"


def test_reset_begins_a_new_conversation_with_the_same_system_message(chat):
    done = chat("the story", "/reset", "the story", options=("--system", "be brief"))
    first, second = _new_tokens(done.stderr)
    assert first[1] == second[1] and "begins anew" in done.stderr
    answer = done.stdout[: len(done.stdout) // 2]
    assert done.stdout == answer + answer


def test_help_and_unknown_commands_reach_no_model(chat):
    done = chat("/help", "/rest")
    assert done.stdout == "" and "/reset   forget" in done.stderr and "no command '/rest'" in done.stderr


def test_a_full_context_says_so_and_reset_helps(chat):
    done = chat("the story " * 4, "more " * 9, "/reset", "go", options=("--context", 90))
    assert "context of 90 tokens" in done.stderr and "/reset begins" in done.stderr
    assert len(_new_tokens(done.stderr)) >= 2 and "begins anew" in done.stderr


def test_a_text_as_long_as_the_context_says_that_it_is_full(chat):
    done = chat("go", options=("--context", 40, "--max-tokens", 500))
    assert "The context of 40 tokens is full; /reset begins a new conversation." in done.stderr


def test_a_model_without_a_template_is_refused(tmp_path, command):
    from moecompress.testing.native import build_artifact
    from moecompress.testing.tiny import tiny_model, write_tokenizer

    write_tokenizer(tmp_path / "assets")
    (tmp_path / "assets" / "chat_template.jinja").unlink()
    artifact = build_artifact(tmp_path, tiny_model("mixtral"), tokenizer=False)
    assert "no chat template, so it cannot chat" in " ".join(command("chat", artifact, code=1).stderr.split())


def test_ctrl_c_ends_an_answer_and_the_next_line_is_answered(start, endless):
    process = start("chat", endless, "--context", 60000, "--threads", 1)
    process.stdin.write("the story\n")
    process.stdin.flush()
    assert len(process.stdout.read(30)) == 30
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if line == "stopped\n":
            break
    process.stdin.write("go on\n")
    process.stdin.flush()
    process.stdout.readline()
    assert len(process.stdout.read(10)) == 10
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0 and rest.count("stopped") == 1


@pytest.mark.parametrize(("ending", "code"), [("end of file", 0), ("interrupt", 130)])
def test_on_a_terminal_it_prompts_and_leaves(endless, ending, code):
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "moecompress.cli.main", "chat", str(endless), "--threads", "1"]

    def hear_interrupts():  # a shell's background job, which the tests may be, starts deaf to them
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, preexec_fn=hear_interrupts
    ) as process:
        os.close(theirs)
        shown = b""
        while b"> " not in shown:
            shown += os.read(terminal, 100)
        errors = None
        for _ in range(30):
            if ending == "interrupt":
                process.send_signal(signal.SIGINT)  # one between prompt and reading is kept until the next key
            else:
                os.write(terminal, b"\x04")
            with contextlib.suppress(subprocess.TimeoutExpired):
                errors = process.communicate(timeout=4)[1]
                break
        process.kill()
    os.close(terminal)
    assert errors is not None and process.returncode == code, errors
    assert b"Traceback" not in errors
