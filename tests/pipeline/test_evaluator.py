"""Evaluation layer by layer against transformers; layers that did not change are not run again; results are kept."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from moecompress.calibration.options import CalibrationOptions
from moecompress.calibration.texts import calibration_tokens
from moecompress.models.discover import discover
from moecompress.models.execute import LayerwiseModel
from moecompress.models.source import TensorSource
from moecompress.pipeline.evaluator import LayerwiseEvaluator


@pytest.fixture
def evaluator(tiny, tmp_path):
    source = TensorSource.open(tiny("mixtral"))
    ids = calibration_tokens(CalibrationOptions(tokens=512, sequence_length=64), source).ids
    (tmp_path / "scratch").mkdir()
    return LayerwiseEvaluator(source, discover(source), ids, tmp_path / "scratch", tmp_path / "known", "model")


def same(layer):
    return layer


def without_expert_2(layer):
    if layer.index != 1:
        return layer
    zeros = {p: torch.zeros_like(weight) for p, weight in layer.experts[2].items()}
    return layer.with_experts((*layer.experts[:2], zeros, *layer.experts[3:]), {})


def reference(evaluator, tokens, change=None):
    folder = evaluator._source.folder
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager")
    if change is not None:
        model.model.layers[1].mlp.experts.down_proj.data[2] = 0
    ids = torch.from_numpy(evaluator._ids[: tokens // 64]).long()
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


def test_it_is_transformers_own_loss(evaluator):
    assert evaluator(same, {}, 256) == pytest.approx(reference(evaluator, 256), rel=1e-5)
    changed = evaluator(without_expert_2, {1: "no expert 2"}, 256)
    assert changed == pytest.approx(reference(evaluator, 256, without_expert_2), rel=1e-5)
    assert changed != pytest.approx(evaluator(same, {}, 256), rel=1e-6)


def test_layers_before_the_first_difference_are_not_run_again(evaluator, monkeypatch):
    loaded = []
    load = LayerwiseModel.load_layer
    monkeypatch.setattr(
        LayerwiseModel, "load_layer", lambda self, index, *rest: loaded.append(index) or load(self, index, *rest)
    )
    evaluator(same, {0: "a", 1: "a"}, 256)
    evaluator(without_expert_2, {0: "a", 1: "b"}, 256)
    assert loaded == [0, 1, 1]
    evaluator(same, {0: "c", 1: "b"}, 256)
    assert loaded == [0, 1, 1, 0, 1]
    evaluator(same, {0: "c", 1: "b"}, 128)
    assert loaded[5:] == [0, 1], "other tokens are another text"


def test_what_was_evaluated_is_kept_on_disk(evaluator, monkeypatch):
    value = evaluator(same, {}, 256)
    monkeypatch.setattr(LayerwiseEvaluator, "_evaluate", None)
    assert evaluator(same, {}, 256) == value
