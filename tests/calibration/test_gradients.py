"""Output gradients, layer by layer, against one backward pass of the whole transformers model; resume after a kill."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from moecompress.calibration import gradients as module
from moecompress.calibration.collect import collect
from moecompress.calibration.files import from_bf16_bits
from moecompress.calibration.gradients import collect_gradients, gradient_disk_bytes
from moecompress.calibration.store import StatisticsStore
from moecompress.core.errors import CalibrationError
from moecompress.core.progress import Silent

SEQUENCES, LENGTH = 4, 64


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "_BATCH_TOKENS", 2 * LENGTH)


def run(model, root, labels="text", progress=None):
    entry = StatisticsStore(root).entry(model.source.content_hash(), model.tokens.hash)
    return collect_gradients(model.source, model.layout, model.tokens, entry, SEQUENCES * LENGTH, labels, progress)


def stored(entry, layer):
    (folder,) = entry.gradients
    return from_bf16_bits(np.array(np.load(folder / f"{layer:05d}.npy")))


def whole_model(model, labels):
    """d(loss)/d(output of each decoder layer), `[layers, tokens, H]`, by autograd through everything at once."""
    whole = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32, experts_implementation="eager")
    outputs = []
    for layer in whole.model.layers:
        layer.register_forward_hook(lambda _, args, output: outputs.append(_kept(output)))
    ids = torch.from_numpy(model.tokens.ids[:SEQUENCES]).long()
    logits = whole(ids, use_cache=False).logits
    if labels == "text":
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    else:
        drawn = [
            torch.multinomial(torch.softmax(row, -1), 1, generator=torch.Generator().manual_seed(i))[:, 0]
            for i, row in enumerate(logits.detach())
        ]
        loss = functional.cross_entropy(logits.flatten(0, 1), torch.cat(drawn), reduction="sum")
    loss.backward()
    return [output.grad.flatten(0, 1) for output in outputs]


def _kept(output):
    values = output[0] if isinstance(output, tuple) else output
    values.retain_grad()
    return values


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
@pytest.mark.parametrize("labels", ["text", "model"])
def test_the_sweep_is_one_backward_pass_through_the_whole_model(family, labels, opened, tmp_path):
    model = opened(family)
    entry = run(model, tmp_path, labels)
    for layer, expected in enumerate(whole_model(model, labels)):
        made = stored(entry, layer)
        assert made.shape == (SEQUENCES * LENGTH, model.layout.moe[0].hidden)
        assert (made - expected).norm() < 0.01 * expected.norm(), "bfloat16 keeps three digits"


def test_statistics_give_the_gradient_of_a_layers_tokens(opened, tmp_path):
    model = opened("mixtral")
    collect(model.source, model.layout, model.tokens, StatisticsStore(tmp_path))
    entry = run(model, tmp_path)
    statistics = entry.layer(1)
    rows = np.array([3, 70, 200])
    assert torch.equal(statistics.gradient_rows("text", rows), stored(entry, 1)[rows])
    assert len(statistics.text_gradient) == SEQUENCES * LENGTH < statistics.tokens
    with pytest.raises(CalibrationError, match="no output gradient for 'model'"):
        statistics.gradient("model")


class Killed(Silent):
    def __init__(self, limit):
        self.left = limit

    def advance(self, amount=1):
        self.left -= amount
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("limit", [1, 6, 12, 14, 19])
def test_an_interrupted_sweep_goes_on_with_the_same_bytes(limit, opened, tmp_path, content):
    model = opened("mixtral")
    whole = content(run(model, tmp_path / "whole").folder)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "part", progress=Killed(limit))
    assert content(run(model, tmp_path / "part").folder) == whole
    assert not any("hidden" in name for name in whole), "hidden states are not kept"


def test_what_is_there_is_not_computed_again(opened, tmp_path, monkeypatch):
    model = opened("mixtral")
    run(model, tmp_path)
    monkeypatch.setattr(module, "LayerwiseModel", None)
    run(model, tmp_path)


def test_a_disk_that_is_too_small_is_refused_before_work(opened, tmp_path, monkeypatch):
    model = opened("mixtral")
    needed = gradient_disk_bytes(model.layout, SEQUENCES * LENGTH)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": needed - 1}))
    with pytest.raises(CalibrationError, match=r"gradients need .* of disk .*gradient_tokens"):
        run(model, tmp_path)
