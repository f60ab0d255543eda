"""config.json of every family: the flags it becomes, and what is refused by name."""

from __future__ import annotations

import json

import pytest

from moecompress.core.errors import UnsupportedModelError
from moecompress.runtime.families.base import read_architecture
from moecompress.testing.tiny import FAMILIES, tiny_config

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _saved(family: str, **overrides):
    return json.loads(tiny_config(family, **overrides).to_json_string())


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_the_config(family):
    values = _saved(family)
    architecture = read_architecture(family, values)
    sizes = architecture.sizes
    assert (sizes.hidden, sizes.heads, sizes.vocabulary) == (64, 4, 304)
    assert sizes.key_value_heads == values["num_key_value_heads"]
    assert sizes.head_size == (values.get("head_dim") or 16)
    assert len(architecture.layers) == 2 and all(layer.sparse for layer in architecture.layers)
    assert architecture.top_k == 2 and not architecture.tied


def test_a_file_of_the_hub_without_the_later_keys_gets_the_defaults_of_its_family():
    values = {
        "hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 24, "vocab_size": 151936,
        "max_position_embeddings": 8192, "num_experts_per_tok": 4, "num_experts": 60, "rope_theta": 1000000.0,
        "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21, "norm_topk_prob": False,
    }  # fmt: skip
    architecture = read_architecture("qwen2_moe", values)
    assert architecture.attention_bias and architecture.shared_expert and not architecture.output_bias
    assert {layer.window for layer in architecture.layers} == {0}
    assert architecture.rope.frequencies[1] == pytest.approx(1e6 ** (-2 / 128))
    assert architecture.norm_epsilon == 1e-6


def test_flags_of_each_family():
    mixtral = read_architecture("mixtral", _saved("mixtral", sliding_window=100))
    assert mixtral.renormalise and [layer.window for layer in mixtral.layers] == [100, 100]
    assert mixtral.head_norm == "none" and not mixtral.attention_bias
    qwen2 = read_architecture("qwen2_moe", _saved("qwen2_moe", num_hidden_layers=4, decoder_sparse_step=2))
    assert [layer.sparse for layer in qwen2.layers] == [False, True, False, True] and not qwen2.renormalise
    qwen3 = read_architecture("qwen3_moe", _saved("qwen3_moe", attention_bias=True, mlp_only_layers=[0]))
    assert qwen3.head_norm == "per_head" and qwen3.attention_bias and qwen3.output_bias and qwen3.renormalise
    assert [layer.sparse for layer in qwen3.layers] == [False, True]
    olmoe = read_architecture("olmoe", _saved("olmoe", clip_qkv=8.0, tie_word_embeddings=True))
    assert olmoe.head_norm == "full" and olmoe.clip == 8.0 and olmoe.tied
    assert read_architecture("olmoe", _saved("olmoe")).clip == float("inf")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 5e5},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
        LLAMA3,
    ],
)
def test_rope_frequencies_are_those_of_transformers(parameters, old):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.mixtral.modeling_mixtral import MixtralRotaryEmbedding

    config = tiny_config("mixtral", head_dim=64, rope_parameters=parameters)
    kind = parameters["rope_type"]
    plain = MixtralRotaryEmbedding.compute_default_rope_parameters
    expected, scale = (plain if kind == "default" else ROPE_INIT_FUNCTIONS[kind])(config)
    values = json.loads(config.to_json_string())
    if old:
        scaling = {("type" if key == "rope_type" else key): value for key, value in parameters.items()}
        values["rope_theta"] = scaling.pop("rope_theta")
        values["rope_scaling"] = None if kind == "default" else scaling
        del values["rope_parameters"]
    rope = read_architecture("mixtral", values).rope
    assert rope.frequencies == pytest.approx(expected.tolist(), rel=1e-6) and rope.scale == scale


_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("family", "overrides", "words"),
    [
        ("mixtral", {"hidden_act": "gelu"}, "hidden_act = gelu"),
        ("mixtral", {"attention_bias": True}, "attention_bias = True"),
        ("mixtral", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type = 'yarn'"),
        ("mixtral", {"rope_parameters": {"rope_type": "linear"}}, "lacks 'factor'"),
        ("qwen3_moe", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("qwen2_moe", {"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
        ("olmoe", {"sliding_window": 64}, "sliding_window = 64"),
        ("olmoe", {"num_attention_heads": 0}, "num_attention_heads = 0"),
        ("olmoe", {"num_hidden_layers": 2**31 - 1}, "num_hidden_layers = 2147483647; .* from 1 to 65536"),
        ("olmoe", {"head_dim": 2**30}, "head_dim = 1073741824"),
        ("olmoe", {"hidden_size": 2}, "head_dim = 0"),
        ("olmoe", {"vocab_size": 2**31}, "vocab_size = 2147483648"),
        ("olmoe", {"rope_theta": 10**400}, "rope_theta = 1000"),
        ("mixtral", {"rope_parameters": {"rope_type": ["default"]}}, "rope_type"),
        ("mixtral", {"rope_parameters": _LLAMA3}, "low_freq_factor = 4.0; it must be below"),
        ("qwen2_moe", {"layer_types": 2}, "layer_types = 2"),
        ("olmoe", {"vocab_size": "many"}, "vocab_size = many"),
        ("olmoe", {"rms_norm_eps": 0}, "rms_norm_eps = 0"),
        ("olmoe", {"hidden_size": None}, "lacks 'hidden_size'"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step = 0"),
        ("qwen3_moe", {"mlp_only_layers": [True]}, "mlp_only_layers"),
    ],
)
def test_what_the_forward_pass_does_not_compute_is_refused_by_name(family, overrides, words):
    with pytest.raises(UnsupportedModelError, match=words) as refused:
        read_architecture(family, {**_saved(family), **overrides})
    assert family in str(refused.value)


def test_an_unknown_family_is_named_with_the_nearest():
    with pytest.raises(UnsupportedModelError, match=r"'qwen4_moe'.*Did you mean 'qwen[23]_moe'"):
        read_architecture("qwen4_moe", {})
