from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from moecompress.core.types import ExpertLayout
from moecompress.models.discover import discover
from moecompress.models.experts import expert_tensors, join_gate_up, read_expert, split_gate_up
from moecompress.models.source import TensorSource
from moecompress.testing.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_canonical_matrices_are_those_of_transformers(tiny, family, fused):
    source = TensorSource.open(tiny(family, fused=fused, dtype="float32"))
    layer = discover(source).moe[1]
    module = tiny_model(family).model.layers[1].mlp.experts
    for expert in (0, 3, 7):
        found = read_expert(source, layer, expert)
        gate, up = module.gate_up_proj[expert].chunk(2)
        assert torch.equal(found["gate"], gate) and torch.equal(found["up"], up)
        assert torch.equal(found["down"], module.down_proj[expert])
        for projection, matrix in found.items():
            assert tuple(matrix.shape) == layer.projection_shape(projection)
            assert matrix.is_contiguous()


@pytest.mark.parametrize("interleaved", [False, True])
def test_gate_and_up_split_and_join(interleaved):
    gate, up = torch.arange(6.0).reshape(3, 2), 10 + torch.arange(6.0).reshape(3, 2)
    joined = join_gate_up(gate, up, interleaved)
    assert joined[1, 0] == (10 if interleaved else 2)
    assert all(map(torch.equal, split_gate_up(joined, interleaved), (gate, up)))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_stacked_layouts_of_every_orientation(tiny, tmp_path, transposed, interleaved):
    source = TensorSource.open(tiny("olmoe"))
    layer = discover(source).moe[0]
    names = {"gate_up": "a.experts.gate_up_proj", "down": "a.experts.down_proj"}
    other = replace(layer, layout=ExpertLayout(names, True, transposed, interleaved))
    tensors = dict(expert_tensors(other, lambda expert: read_expert(source, layer, expert)))
    assert tensors["a.experts.down_proj"].shape == ((8, 32, 64) if transposed else (8, 64, 32))
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    again = TensorSource.open(tmp_path)
    for expert in range(8):
        wanted, found = read_expert(source, layer, expert), read_expert(again, other, expert)
        assert all(torch.equal(wanted[part], found[part]) for part in ("gate", "up", "down"))


def test_split_layout_yields_expert_by_expert(tiny):
    source = TensorSource.open(tiny("mixtral", fused=True))
    layer = discover(source).moe[0]
    split = replace(layer, layout=ExpertLayout({"gate": "e.{e}.w1", "up": "e.{e}.w3", "down": "e.{e}.w2"}, False))
    read = []

    def reader(expert):
        read.append(expert)
        return read_expert(source, layer, expert)

    tensors = expert_tensors(split, reader)
    name, value = next(tensors)
    assert name == "e.0.w1" and read == [0]
    assert torch.equal(value, read_expert(source, layer, 0)["gate"])
    assert [name for name, _ in tensors][-1] == "e.7.w2"
