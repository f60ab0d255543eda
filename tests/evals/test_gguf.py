"""GGUF files for the peer: what is written is what the model has."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from synthetic import gguf_file, gguf_model  # noqa: E402
from synthetic.blocks import SCALES, random_blocks  # noqa: E402
from synthetic.gguf_file import Tensor, Type  # noqa: E402
from synthetic.weights import EMBEDDING, Weights  # noqa: E402


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in tensor.shape[::-1]])


def test_a_bf16_file_holds_the_weights(weights, tmp_path):
    found = tensors(gguf_model.build_bf16(weights, tmp_path / "model.gguf"))
    assert len(found) == 3 + weights.shape.layers * (9 + 3)
    assert (values(found["token_embd.weight"]) == weights.trunk(EMBEDDING)).all()
    router = found["blk.1.ffn_gate_inp.weight"]
    assert router.tensor_type == Type.F32
    assert (values(router) == weights.trunk("model.layers.1.mlp.gate.weight")).all()
    assert (values(found["blk.2.ffn_down_exps.weight"])[5] == weights.expert(2, 5, "down")).all()


def test_the_metadata_says_what_llama_cpp_needs(weights, tmp_path):
    reader = gguf.GGUFReader(gguf_model.build_bf16(weights, tmp_path / "model.gguf"))
    found = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert found["general.architecture"] == "olmoe"
    assert found["tokenizer.ggml.model"] == "none"
    assert (found["olmoe.expert_count"], found["olmoe.expert_used_count"], found["olmoe.vocab_size"]) == (8, 2, 512)


@pytest.mark.parametrize("kind", sorted(SCALES), ids=lambda kind: kind.name)
def test_random_blocks_have_the_wanted_mean_and_deviation(kind):
    data = random_blocks(kind, (64, 256), 0.02, np.random.default_rng(3))
    found = gguf.quants.dequantize(data.reshape(64, -1), kind)
    assert found.std() == pytest.approx(0.02, rel=0.1)
    assert abs(found.mean()) < 0.002


@pytest.mark.parametrize("mix", sorted(gguf_model.MIXES))
def test_a_random_mix_keeps_norms_routers_and_embedding(mix, weights, tmp_path):
    wide = Weights(replace(weights.shape, hidden=256, width=256))
    found = tensors(gguf_model.build_random(wide, mix, tmp_path / "model.gguf"))
    assert (values(found["blk.0.ffn_gate_inp.weight"]) == wide.trunk("model.layers.0.mlp.gate.weight")).all()
    embedding = wide.trunk(EMBEDDING)
    assert np.abs(values(found["token_embd.weight"]) - embedding).max() < 0.02 * np.abs(embedding).max()
    assert found["blk.2.ffn_up_exps.weight"].tensor_type == Type[mix]
    assert found["output.weight"].tensor_type == Type.Q5_K


def test_active_bytes_count_the_used_share_of_experts_and_no_embedding(weights, tmp_path):
    path = gguf_model.build_bf16(weights, tmp_path / "model.gguf")
    experts = sum(t.n_bytes for t in tensors(path).values() if "_exps" in t.name)
    trunk = sum(t.n_bytes for t in tensors(path).values() if "_exps" not in t.name)
    expected = trunk - tensors(path)["token_embd.weight"].n_bytes + experts * 2 // 8
    assert gguf_file.active_bytes(path) == expected


def test_a_tensor_of_another_size_is_refused_and_nothing_is_left(tmp_path):
    wrong = Tensor("blk.0.attn_q.weight", (4, 32), Type.F32, lambda: np.zeros((4, 31), np.float32))
    with pytest.raises(ValueError, match=r"attn_q\.weight has 496 bytes; F32 needs 512"):
        gguf_file.write(tmp_path / "model.gguf", "olmoe", {}, [wrong])
    assert not (tmp_path / "model.gguf").exists()


def test_rows_that_are_no_whole_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks of 256, so not rows of 64"):
        gguf_file.nbytes(Type.Q4_K, (8, 64))


def rotate_halves(x, angle):
    left, right = np.split(x, 2)
    return np.concatenate([left * np.cos(angle) - right * np.sin(angle), right * np.cos(angle) + left * np.sin(angle)])


def rotate_pairs(x, angle):
    even, odd = x[0::2], x[1::2]
    return np.stack([even * np.cos(angle) - odd * np.sin(angle), odd * np.cos(angle) + even * np.sin(angle)], 1).ravel()


def test_queries_and_keys_in_pairs_give_the_same_attention_scores():
    pytest.importorskip("torch")
    from comparison.checkpoint_gguf import paired_rows

    generator = np.random.default_rng(0)
    query, key = generator.standard_normal((2, 8, 16)).astype(np.float32)
    x, angles = generator.standard_normal(16), 3 * 10000.0 ** (-np.arange(4) / 4)
    halves = rotate_halves(query @ x, angles) @ rotate_halves(key @ x, 2 * angles)
    pairs = rotate_pairs(paired_rows(query, 1) @ x, angles) @ rotate_pairs(paired_rows(key, 1) @ x, 2 * angles)
    assert pairs == pytest.approx(halves, rel=1e-5)


def test_a_mixtral_checkpoint_becomes_a_llama_file_with_experts(tiny, tmp_path):
    pytest.importorskip("torch")
    from safetensors.torch import load_file

    from comparison.checkpoint_gguf import convert, paired_rows

    folder = tiny("mixtral")
    found = tensors(convert(folder, tmp_path / "model.gguf"))
    config = json.loads((folder / "config.json").read_text())
    query = load_file(folder / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"].float().numpy()
    heads = config["num_attention_heads"]
    assert np.abs(values(found["blk.0.attn_q.weight"]) - paired_rows(query, heads)).max() < 0.01 * np.abs(query).max()
    experts = [name for name in found if "_exps" in name]
    assert len(experts) == 3 * config["num_hidden_layers"]
    assert found[experts[0]].shape[2] == config["num_local_experts"]


def test_another_family_is_not_converted(tiny, tmp_path):
    pytest.importorskip("torch")
    from comparison.checkpoint_gguf import convert

    with pytest.raises(ValueError, match="holds a olmoe model; only mixtral"):
        convert(tiny("olmoe"), tmp_path / "model.gguf")
