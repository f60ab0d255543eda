"""Collection: reuse, resume after errors and after kill -9 with identical bytes, and what is left on disk."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moecompress.calibration import collect as module
from moecompress.calibration.collect import collect, disk_bytes
from moecompress.calibration.files import ArrayWriter
from moecompress.calibration.store import StatisticsStore
from moecompress.core.errors import CalibrationError
from moecompress.core.progress import Silent

SCRIPT = """
import os, signal, sys
from pathlib import Path
from moecompress.calibration import collect
from moecompress.calibration.options import CalibrationOptions
from moecompress.calibration.store import StatisticsStore
from moecompress.calibration.texts import calibration_tokens
from moecompress.core.progress import Silent
from moecompress.models.discover import discover
from moecompress.models.source import TensorSource

class Killed(Silent):
    left = int(sys.argv[4])

    def advance(self, amount=1):
        self.left -= amount
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

collect._BATCH_TOKENS = 256
source = TensorSource.open(sys.argv[1])
tokens = calibration_tokens(CalibrationOptions(source=sys.argv[3], tokens=1024, sequence_length=64), source)
collect.collect(source, discover(source), tokens, StatisticsStore(Path(sys.argv[2])), Killed())
"""


def in_another_process(model, root, text, limit, **environment):
    arguments = [sys.executable, "-c", SCRIPT, str(model.folder), str(root), str(text), str(limit)]
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2]), **environment}
    for variable in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
        environment.pop(variable, None)
    return subprocess.run(arguments, env=environment, check=False).returncode


class Recording(Silent):
    """Counts what is done and fails after `limit` sequences."""

    def __init__(self, limit=None):
        self.done, self.total, self.lines, self.limit = 0, 0, [], limit

    def start(self, task, total, unit=""):
        self.total = total

    def advance(self, amount=1):
        self.done += amount
        if self.limit is not None and self.done >= self.limit:
            raise KeyboardInterrupt

    def log(self, line, details=None):
        self.lines.append((line, details))


def run(model, root, progress=None):
    return collect(model.source, model.layout, model.tokens, StatisticsStore(root), progress)


@pytest.fixture(scope="module")
def model(opened):
    return opened("olmoe", num_hidden_layers=4)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "_BATCH_TOKENS", 256)


@pytest.fixture
def whole(model, tmp_path, content):
    return content(run(model, tmp_path / "whole").folder)


def test_everything_is_there_and_nothing_else(model, tmp_path, content):
    progress = Recording()
    entry = run(model, tmp_path, progress)
    names = {"layer.json", "scalars.safetensors", "trunk.safetensors"}
    names |= {"router_input.npy", "top_k_index.npy", "top_k_weights.npy"}
    assert set(content(entry.folder)) == {"entry.json"} | {f"layers/{i:05d}/{name}" for i in range(4) for name in names}
    assert progress.done == progress.total == 4 * 16
    line, details = progress.lines[2]
    assert line.startswith("layer 2: 8 experts saw")
    assert [row["expert"] for row in details["coverage"]] == list(range(8))
    assert {"layer", "expert", "tokens", "lam"} == set(details["coverage"][0])


def test_a_second_call_collects_nothing(model, tmp_path, monkeypatch, content):
    before = content(run(model, tmp_path).folder)
    monkeypatch.setattr(module, "LayerwiseModel", None)
    progress = Recording()
    assert content(run(model, tmp_path, progress).folder) == before
    assert progress.done == 0 and "are reused" in progress.lines[0][0]


def test_hidden_states_of_two_layers_at_most_are_kept(model, tmp_path):
    most = 0

    class Watching(Silent):
        def advance(self, amount=1):
            nonlocal most
            most = max(most, len(list(tmp_path.rglob("hidden-*"))))

    entry = run(model, tmp_path, Watching())
    assert most == 2
    entry.hidden(4).write_bytes(b"left by a kill at the very end")
    run(model, tmp_path)
    assert not list(tmp_path.rglob("hidden-*"))


@pytest.mark.parametrize("limit", [1, 16, 20, 48, 63])
def test_an_interrupted_collection_goes_on_with_the_same_bytes(model, tmp_path, whole, content, limit):
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "part", Recording(limit))
    progress = Recording()
    entry = run(model, tmp_path / "part", progress)
    assert content(entry.folder) == whole
    assert progress.total == 64 - 16 * ((limit - 1) // 16)


def test_a_lost_layer_is_made_again_from_the_beginning(model, tmp_path, whole, content):
    entry = run(model, tmp_path / "part")
    for path in (entry.folder / "layers" / "00001").iterdir():
        path.unlink()
    (entry.folder / "layers" / "00001").rmdir()
    progress = Recording()
    assert content(run(model, tmp_path / "part", progress).folder) == whole
    assert progress.total == 2 * 16


def test_batches_change_no_counts(model, tmp_path, monkeypatch):
    few = run(model, tmp_path / "few").layer(3)
    monkeypatch.setattr(module, "_BATCH_TOKENS", 1)
    one = run(model, tmp_path / "one").layer(3)
    assert few.count.tolist() == one.count.tolist()
    assert few.coactivation.tolist() == one.coactivation.tolist()
    assert few.sal_reap == pytest.approx(one.sal_reap, rel=1e-5)


def test_kill_and_same_command_again_gives_the_same_bytes(model, tmp_path, whole, content):
    assert in_another_process(model, tmp_path / "killed", "builtin", 40) == -signal.SIGKILL
    (left,) = (tmp_path / "killed").iterdir()
    assert list(left.rglob("*.partial")) and (left / "layers" / "00001").is_dir()
    progress = Recording()
    assert content(run(model, tmp_path / "killed", progress).folder) == whole
    assert progress.total == 2 * 16


@pytest.mark.slow
def test_nothing_is_written_below_the_users_home(model, tmp_path):
    text = tmp_path / "texts.jsonl"
    text.write_text('{"text": "' + "some words of text. " * 2000 + '"}\n')
    home = tmp_path / "home"
    home.mkdir()
    assert in_another_process(model, tmp_path / "store", text, 10**9, HOME=str(home)) == 0
    assert not list(home.iterdir())


def test_a_disk_that_is_too_small_is_refused_before_work(model, tmp_path, monkeypatch):
    needed = disk_bytes(model.layout, 1024)
    usage = type("Usage", (), {"free": needed - 1})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CalibrationError, match=r"Statistics need .* of disk .*Lower calibration.tokens"):
        run(model, tmp_path)


def test_the_stated_disk_is_enough(model, tmp_path):
    folder = run(model, tmp_path).folder
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "layer.json")
    assert used <= disk_bytes(model.layout, 1024) <= 2 * used


def test_a_full_disk_keeps_finished_layers(model, tmp_path, monkeypatch, whole, content):
    original, calls = ArrayWriter.append, []

    def append(self, rows):
        calls.append(rows)
        if len(calls) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, rows)

    monkeypatch.setattr(ArrayWriter, "append", append)
    with pytest.raises(CalibrationError, match=r"disk is full.*finished layers are kept"):
        run(model, tmp_path / "part")
    monkeypatch.setattr(ArrayWriter, "append", original)
    (folder,) = (tmp_path / "part").iterdir()
    assert (folder / "layers" / "00000").is_dir() and not list(folder.rglob("*.partial"))
    assert content(run(model, tmp_path / "part").folder) == whole
