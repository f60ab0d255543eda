"""Synthetic models: the same weights in every form, and routing that does not collapse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moecompress.artifact.reader import read_manifest
from moecompress.codecs.table import codec_of
from moecompress.runtime.engine import Engine
from synthetic import routing
from synthetic.artifact import Bits, build_artifact, encoded
from synthetic.artifact import active_bytes as artifact_active_bytes
from synthetic.shapes import PRESETS
from synthetic.tokens import stream
from synthetic.weights import EMBEDDING, Weights
from synthetic_model import main as synthetic_model

LOSSLESS = Bits(experts=16, attention=16, head=16)


def quiet(line: str) -> None:
    """No progress."""


def test_the_engine_computes_what_the_numpy_forward_pass_does(weights, tmp_path):
    ids = stream(weights.shape, 24)
    expected, _, _ = routing.forward(weights, ids)
    with Engine.open(build_artifact(weights, LOSSLESS, tmp_path / "model", quiet), threads=1) as engine:
        found = engine.logits(ids)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 0.03


def test_same_seed_same_bytes_and_artifacts_share_their_experts(weights, tmp_path):
    usual = build_artifact(weights, Bits(4, 8, 8, 64), tmp_path / "usual", quiet)
    smaller = build_artifact(weights, Bits(4, 4, 8, 64), tmp_path / "smaller", quiet)
    again = build_artifact(weights, Bits(4, 8, 8, 64), tmp_path / "elsewhere" / "usual", quiet)
    other = build_artifact(Weights(weights.shape, 1), Bits(4, 8, 8, 64), tmp_path / "other", quiet)
    hashes = [read_manifest(path).artifact_hash for path in (usual, again, other, smaller)]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    assert (usual / "experts-00002.safetensors").samefile(smaller / "experts-00002.safetensors")


def test_a_finished_artifact_is_not_made_again(weights, tmp_path):
    out = build_artifact(weights, LOSSLESS, tmp_path / "model", quiet)
    before = (out / "manifest.json").stat().st_mtime_ns
    assert build_artifact(weights, LOSSLESS, out, quiet) == out
    assert (out / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("bits", range(2, 9))
def test_rounding_loses_at_most_half_a_step_and_what_half_precision_costs(weights, bits):
    values = weights.expert(0, 0, "gate")
    weight = encoded(values, bits, 32)
    step = np.repeat(weight.arrays["scale"].astype(np.float32), 32, axis=1)
    assert (
        np.abs(codec_of(weight.spec).dequantize(weight) - values) <= 0.51 * step + 2e-3 * np.abs(values).max()
    ).all()


def test_active_bytes_are_top_k_records_a_layer_and_the_trunk_without_the_embedding(weights, tmp_path):
    out = build_artifact(weights, Bits(4, 8, 8, 64), tmp_path / "model", quiet)
    manifest = read_manifest(out)
    trunk = sum(tensor.bytes for tensor in manifest.trunk.values()) - manifest.trunk[EMBEDDING].bytes
    assert artifact_active_bytes(manifest, 2) == trunk + 3 * 2 * manifest.experts[0].experts[0].bytes


def test_the_largest_preset_has_the_shape_of_olmoe_1b_7b():
    assert 6.8e9 < PRESETS["olmoe-7b"].parameters < 7.0e9
    assert 1.7e9 < PRESETS["olmoe-1.8b"].parameters < 1.9e9


def test_routing_is_spread_and_local_like_a_trained_models():
    shape = replace(PRESETS["quick"], layers=3, hidden=256, width=64, heads=4)
    found = routing.measure(Weights(shape), stream(shape, 512))
    assert found["effective_experts"] > 40
    assert 0.3 < found["next_token_reuse"] < 0.7
    assert 0.5 < found["next_layer_recall"] < 0.95
    lru, best = found["hit_rates"]["lru"], found["hit_rates"]["belady"]
    assert 0.3 < lru[0] < lru[1] < best[1] and lru[0] < best[0]


def test_collapsed_routing_is_seen():
    chosen = np.tile(np.arange(8), (2, 10, 1))
    found = routing.summary(PRESETS["quick"], chosen, chosen[:1])
    assert (found["effective_experts"], found["next_token_reuse"], found["next_layer_recall"]) == (8.0, 1.0, 1.0)
    assert found["hit_rates"] == {"lru": [1.0, 1.0], "belady": [1.0, 1.0]}


def test_tokens_stay_with_a_topic_and_repeat_words(weights):
    ids = np.array(stream(weights.shape, 2000))
    assert ids.min() >= 0 and ids.max() < weights.shape.vocabulary
    assert 0.7 < (weights.topic(ids[1:]) == weights.topic(ids[:-1])).mean() < 0.85
    assert len(np.unique(weights.topic(ids))) == weights.shape.topics
    assert stream(weights.shape, 50) == stream(weights.shape, 50) != stream(weights.shape, 50, seed=1)


def test_the_command_makes_an_artifact_that_tokenizes_and_generates(tmp_path):
    out = tmp_path / "model"
    sizes = ["--hidden", "64", "--width", "64", "--layers", "2", "--experts", "8", "--top-k", "2", "--heads", "2"]
    assert synthetic_model(["artifact", "--shape", "quick", *sizes, "--expert-bits", "2", "--out", str(out)]) == 0
    with Engine.open(out, threads=1, context=64) as engine:
        assert engine.tokenizer.decode(engine.tokenizer.encode("héllo, wörld")) == "héllo, wörld"
        assert engine.generate("abc", max_tokens=4).run().completion_tokens == 4
