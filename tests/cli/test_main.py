"""What the entry point makes of failures, without a process of its own."""

import errno

import pytest

from moecompress.cli import main as entry
from moecompress.core.errors import BudgetError, SourceError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (SourceError("The shard [a] is truncated."), 1, "The shard [a] is truncated."),
        (BudgetError("Too small."), 2, "Too small."),
        (OSError(errno.ENOSPC, "No space left on device", "/some/where"), 1, "No space left on device (/some/where)"),
        (ModuleNotFoundError("no", name="torch.nn"), 2, "moecompress[compress]"),
    ],
)
def test_failures_become_one_sentence_and_a_code(monkeypatch, capsys, error, code, words):
    def fails():
        raise error

    monkeypatch.setattr(entry, "build_app", lambda only: fails)
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == code
    captured = capsys.readouterr()
    assert words in captured.err.replace("\n", " ")
    assert captured.out == ""


def test_a_bug_is_not_dressed_up(monkeypatch):
    monkeypatch.setattr(entry, "build_app", lambda only: lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        entry.main()


def test_every_command_is_found_by_folder_scan():
    names = {command.name for command in entry.build_app().registered_commands}
    assert {"run", "plan", "inspect", "verify", "generate", "eval"} <= names


@pytest.mark.parametrize(
    ("arguments", "module"),
    [(["eval", "x"], "eval_"), (["generate"], "generate"), (["eval_"], None), (["--help"], None), ([], None)],
)
def test_the_command_that_is_asked_for_is_the_only_one_imported(arguments, module):
    assert entry.named_command(arguments) == module
    if module is not None:
        assert [command.name for command in entry.build_app(module).registered_commands] == [arguments[0]]
