from dataclasses import replace

import pytest
import torch

from moecompress.core.types import Activation
from moecompress.models.discover import discover, layout_from_trunk
from moecompress.models.layouts import TEMPLATES, find_blocks, layer_of, template_of
from moecompress.models.roles import role_of
from moecompress.models.source import TensorSource
from moecompress.testing.tiny import FAMILIES

BLOCKS = {"mixtral": "block_sparse_moe", "qwen2_moe": "mlp", "qwen3_moe": "mlp", "olmoe": "mlp"}


def layout_of(folder):
    return discover(TensorSource.open(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_moe_layers(tiny, family):
    layout = layout_of(tiny(family))
    assert layout.model_type == family and layout.layers == 2 and list(layout.moe) == [0, 1]
    for index, layer in layout.moe.items():
        assert layer.index == index
        assert layer.path == f"model.layers.{index}.{BLOCKS[family]}"
        assert (layer.experts, layer.top_k, layer.hidden, layer.width, layer.groups) == (8, 2, 64, 32, 1)
        assert layer.router == (f"{layer.path}.gate.weight",)
        assert layer.activation == Activation("silu")
        assert not layer.layout.stacked and set(layer.layout.names) == {"gate", "up", "down"}


@pytest.mark.parametrize("family", FAMILIES)
def test_layout_is_read_off_the_tensors_not_the_family(tiny, family):
    layer = layout_of(tiny(family, fused=True)).moe[1]
    assert layer.layout.stacked and set(layer.layout.names) == {"gate_up", "down"}
    assert layer.path == "model.layers.1.mlp"
    assert layer.experts == 8


def test_every_tensor_is_claimed_once(tiny):
    for family in FAMILIES:
        for fused in (False, True):
            source = TensorSource.open(tiny(family, fused=fused))
            layout = discover(source)
            claimed = [tensor.name for tensor in layout.trunk]
            claimed += [name for layer in layout.moe for name in layout.expert_names(layer)]
            assert sorted(claimed) == list(source.names)


def test_shared_expert_and_dense_layer(tiny):
    layout = layout_of(tiny("qwen2_moe", mlp_only_layers=[0]))
    assert list(layout.moe) == [1] and layout.layers == 2
    assert layout.expert_names(0) == () and len(layout.expert_names(1)) == 24
    roles = {tensor.name: tensor.role for tensor in layout.trunk}
    assert roles["model.layers.0.mlp.gate_proj.weight"] == "dense_ffn"
    assert roles["model.layers.1.mlp.shared_expert.down_proj.weight"] == "shared_expert"
    assert roles["model.layers.1.mlp.shared_expert_gate.weight"] == "router"
    assert roles["model.layers.1.self_attn.k_proj.bias"] == "bias"
    shared = {name.removeprefix("model.layers.1.mlp.") for name in layout.moe[1].shared}
    assert shared == {
        "shared_expert_gate.weight",
        *(f"shared_expert.{part}_proj.weight" for part in ("gate", "up", "down")),
    }


def test_roles(tiny):
    layout = layout_of(tiny("qwen3_moe"))
    roles = {tensor.name: (tensor.role, tensor.layer) for tensor in layout.trunk}
    assert roles["model.embed_tokens.weight"] == ("embedding", None)
    assert roles["lm_head.weight"] == ("head", None)
    assert roles["model.norm.weight"] == ("norm", None)
    assert roles["model.layers.1.self_attn.q_proj.weight"] == ("attention", 1)
    assert roles["model.layers.1.self_attn.q_norm.weight"] == ("norm", 1)
    assert roles["model.layers.0.post_attention_layernorm.weight"] == ("norm", 0)
    assert roles["model.layers.0.mlp.gate.weight"] == ("router", 0)
    assert {tensor.layer for tensor in layout.layer_trunk(1)} == {1}
    assert len(layout.layer_trunk(None)) == 3
    assert all(role != "other" for role, _ in roles.values())


def test_a_router_correction_bias_is_a_router_tensor(tiny):
    layer = layout_of(tiny("olmoe")).moe[0]
    name = f"{layer.path}.gate.e_score_correction_bias"
    assert role_of(name, (8,), layer) == "bias"
    assert role_of(name, (8,), replace(layer, router=(*layer.router, name))) == "router"


def test_layers_are_found_in_names():
    assert layer_of("model.layers.12.mlp.gate.weight") == 12
    assert layer_of("model.language_model.layers.3.mlp") == 3
    assert layer_of("model.norm.weight") is None
    assert layer_of("model.mylayers.3.norm.weight") is None


def test_templates_of_a_block():
    stacked = ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"]
    split = [f"model.layers.1.mlp.experts.11.{part}_proj.weight" for part in ("gate", "up", "down")]
    shared = ["model.layers.1.mlp.shared_experts.gate_proj.weight", "model.layers.1.mlp.gate.weight"]
    blocks = find_blocks([*stacked, *split, *shared])
    assert {path: [template.code for template in found] for path, found in blocks.items()} == {
        "model.layers.0.mlp": ["C4"],
        "model.layers.1.mlp": ["C1"],
    }


def test_shapes_of_a_template():
    assert template_of("C2").shape("down", 8, 64, 32) == (64, 32)
    assert template_of("C1").shape("gate", 8, 64, 32) == (32, 64)
    assert template_of("C4").shape("gate_up", 8, 64, 32) == (8, 64, 64)
    assert template_of("C4").shape("down", 8, 64, 32) == (8, 64, 32)
    assert len({template.code for template in TEMPLATES}) == len(TEMPLATES)


def test_layout_without_experts_tensors(tiny):
    source = TensorSource.open(tiny("mixtral"))
    layout = discover(source)
    headers = {tensor.name: (tensor.shape, torch.float32) for tensor in layout.trunk}
    again = layout_from_trunk(source.config, headers)
    assert again.moe[1].path == "model.layers.1.block_sparse_moe"
    assert again.moe[1].router == layout.moe[1].router
    assert [tensor.role for tensor in again.trunk] == [tensor.role for tensor in layout.trunk]
