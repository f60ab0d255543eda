"""Sensitivity figures: rounding, dropping and merging change what they should, and bounds are judged."""

import math
from pathlib import Path

import pytest

import moecompress

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def sensitivity(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(moecompress.__file__).parents[1] / "scripts"))
    from tiny_model import sensitivity

    return sensitivity


@pytest.fixture
def model(sensitivity):
    from tiny_model.settings import TOY
    from tiny_model.training import new_model

    return new_model(TOY, end_of_text=0)


def test_rounding_keeps_group_ends_and_uses_few_levels(sensitivity, model):
    before = [weight.clone() for weight in sensitivity.expert_weights(model)]
    sensitivity.round_experts(model, bits=2, group=16)
    for weight, original in zip(sensitivity.expert_weights(model), before, strict=True):
        groups, originals = weight.unflatten(-1, (-1, 16)), original.unflatten(-1, (-1, 16))
        assert torch.allclose(groups.amin(-1), originals.amin(-1))
        assert torch.allclose(groups.amax(-1), originals.amax(-1), atol=1e-6)
        assert max(len(group.unique()) for group in groups.flatten(0, -2)) <= 4


def test_dropped_experts_are_never_chosen_and_undo_restores(sensitivity, model):
    tokens = torch.arange(32)[None]
    counts = sensitivity.routed_counts(model, tokens)
    assert counts.sum(1).tolist() == [64, 64]
    kept = [weight.clone() for weight in sensitivity.expert_weights(model)]
    hooks = sensitivity.drop_experts(model, torch.tensor([[0], [3]]))
    dropped = sensitivity.routed_counts(model, tokens)
    assert dropped[0, 0] == dropped[1, 3] == 0
    assert dropped.sum(1).tolist() == [64, 64]
    hooks += sensitivity.merge_experts(model)
    sensitivity.undo(model, kept, hooks)
    assert torch.equal(sensitivity.routed_counts(model, tokens), counts)
    assert all(map(torch.equal, sensitivity.expert_weights(model), kept))


def test_masked_choice_normalises_weights(sensitivity, model):
    router = sensitivity.routers(model)[0]
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    masked, weights, indices = sensitivity.masked_choice(router, (logits,), torch.tensor([1]))
    assert masked[0, 1] == -math.inf
    assert indices.tolist() == [[0, 2]]
    assert weights.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("increase", "bound", "passed"),
    [(0.09, {"at_least": 0.1}, False), (0.1, {"at_least": 0.1}, True), (0.02, {"below": 0.02}, False), (9.0, {}, True)],
)
def test_bounds(sensitivity, increase, bound, passed):
    assert sensitivity.Figure("x", increase, 0.0, **bound).passed is passed
