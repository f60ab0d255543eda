"""Training of the embedded model, at toy size: same weights for any number of processes and after a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import moecompress

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(moecompress.__file__).parents[1]
SCRIPT = ROOT / "scripts" / "build_tiny_model"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
DEADLINE = 300  # seconds, for one toy training on a busy machine


@pytest.fixture
def scripts_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def command(work: Path, *options: object) -> list[str]:
    arguments = ["--toy", "--work", work / "work", "--out", work / "model", *options]
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def build(work: Path, *options: object) -> dict[str, str]:
    """Train a toy model below `work`; SHA-256 of each file it wrote."""
    subprocess.run(command(work, *options), env=ENVIRONMENT, check=True, timeout=DEADLINE, capture_output=True)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((work / "model").iterdir())}


def kill_after_checkpoint(work: Path, *options: object) -> None:
    """Start a toy training and SIGKILL it (and nothing else) once it has written a checkpoint."""
    process = subprocess.Popen(command(work, *options), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + DEADLINE
    while not (work / "work" / "checkpoint.pt").exists():
        assert process.poll() is None, "finished or failed before its first checkpoint"
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (work / "model").exists()


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(tmp_path):
    one = build(tmp_path / "one")
    assert build(tmp_path / "two", "--processes", 2) == one
    assert set(one) == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "training.json",
    }  # fmt: skip
    record = json.loads((tmp_path / "one/model/training.json").read_text())
    assert (record["steps"], record["tokens"]) == (6, 6 * 2 * 2 * 32)
    assert len(record["loss_curve"]) == 6


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_bytes(tmp_path):
    options = ("--steps", 150, "--checkpoint-every", 7)
    whole = build(tmp_path / "whole", *options)
    kill_after_checkpoint(tmp_path / "killed", *options, "--processes", 2)
    assert build(tmp_path / "killed", *options) == whole


@pytest.mark.slow
def test_refuses_an_existing_folder_and_foreign_checkpoints(tmp_path):
    build(tmp_path, "--checkpoint-every", 2)
    again = subprocess.run(command(tmp_path), env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    other = [*command(tmp_path, "--seed", 1)[:-3], str(tmp_path / "other"), "--seed", "1"]
    foreign = subprocess.run(other, env=ENVIRONMENT, capture_output=True, text=True)
    assert foreign.returncode == 1
    assert "written with other settings" in foreign.stderr


def test_windows_depend_on_their_number_only(scripts_path):
    from tiny_model.text import Windows

    documents = [torch.arange(start, start + 37) for start in range(0, 1000, 100)]
    first, second = Windows(documents, 16, seed=3), Windows(documents, 16, seed=3)
    forward = [first[number] for number in range(3 * first.per_epoch)]
    backward = [second[number] for number in reversed(range(3 * first.per_epoch))]
    assert all(map(torch.equal, forward, reversed(backward)))
    epochs = [torch.stack(forward[i * first.per_epoch : (i + 1) * first.per_epoch]) for i in range(3)]
    assert not torch.equal(epochs[0], epochs[1])
    assert all(epoch.unique().numel() >= 370 - 16 for epoch in epochs)


def test_learning_rate_warms_up_and_ends_near_zero(scripts_path):
    from tiny_model.settings import Settings
    from tiny_model.training import learning_rate

    settings = Settings(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3


def test_balance_loss_is_one_when_uniform_and_larger_when_not(scripts_path):
    from tiny_model.training import balance_loss

    rolled = torch.eye(4) + torch.eye(4).roll(1, 0)
    assert balance_loss(rolled, top_k=2).item() == pytest.approx(1.0)
    assert balance_loss(torch.tensor([[9.0, 8.0, 0.0, 0.0]]).repeat(4, 1), top_k=2).item() > 1.5
