"""Checkpoints that are damaged, incomplete or of the wrong kind: each is refused by name, before any work is done."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from moecompress.core.errors import CoverageError, SourceError, UnsupportedModelError
from moecompress.models.discover import discover
from moecompress.models.source import TensorSource

INDEX = "model.safetensors.index.json"
NAME = "model.layers.1.mlp.experts.3.up_proj.weight"


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")


def discovered(folder):
    return discover(TensorSource.open(folder))


@pytest.fixture
def whole(tiny_copy):
    return tiny_copy("olmoe")


@pytest.fixture
def sharded(tiny_copy):
    return tiny_copy("olmoe", sharded=True)


def test_missing_folder(tmp_path):
    with pytest.raises(SourceError, match=r"no model folder .*nowhere"):
        TensorSource.open(tmp_path / "nowhere")


def test_missing_config(whole):
    (whole / "config.json").unlink()
    with pytest.raises(SourceError, match=r"config\.json is missing"):
        TensorSource.open(whole)


@pytest.mark.parametrize("text", ["{", "[1]", '"olmoe"', "\xff"])
def test_config_that_is_no_json_object(whole, text):
    (whole / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"config\.json"):
        TensorSource.open(whole)


@pytest.mark.parametrize("value", [None, 3, ["olmoe"]])
def test_config_without_a_family(whole, value):
    edit_json(whole / "config.json", model_type=value)
    with pytest.raises(SourceError, match="names no model_type"):
        TensorSource.open(whole)


def test_missing_shard(sharded):
    victim = sorted(sharded.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(SourceError, match=f"{victim.name} is missing"):
        TensorSource.open(sharded)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_file(whole, kept):
    data = (whole / "model.safetensors").read_bytes()
    (whole / "model.safetensors").write_bytes(data[:kept])
    with pytest.raises(SourceError, match=rf"model\.safetensors \({len(data[:kept])} bytes\) is truncated"):
        TensorSource.open(whole)


def test_truncated_shard(sharded):
    victim = sorted(sharded.glob("*.safetensors"))[-1]
    victim.write_bytes(victim.read_bytes()[:-2])
    with pytest.raises(SourceError, match=f"{victim.name}.*truncated"):
        TensorSource.open(sharded)


def test_file_with_surplus_bytes(whole):
    with (whole / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(SourceError, match=r"model\.safetensors"):
        TensorSource.open(whole)


def test_pointer_instead_of_weights(whole):
    (whole / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(SourceError, match="no safetensors file"):
        TensorSource.open(whole)


def test_index_naming_a_tensor_no_shard_has(sharded):
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    file = next(iter(places.values()))
    edit_json(sharded / INDEX, weight_map={**places, "model.layers.0.mlp.experts.8.up_proj.weight": file})
    with pytest.raises(SourceError, match=rf"places 'model\.layers\.0\.mlp\.experts\.8\.up_proj\.weight' in {file}"):
        TensorSource.open(sharded)


def test_index_placing_a_tensor_in_the_wrong_shard(sharded):
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = next(file for file in places.values() if file != places[NAME])
    edit_json(sharded / INDEX, weight_map={**places, NAME: other})
    with pytest.raises(SourceError, match=f"{NAME}.*{other}"):
        TensorSource.open(sharded)


def test_index_leaving_out_a_tensor(sharded):
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    del places[NAME]
    edit_json(sharded / INDEX, weight_map=places)
    with pytest.raises(SourceError, match=f"{NAME}.*no file"):
        TensorSource.open(sharded)


@pytest.mark.parametrize("places", [None, {}, [], {"a": 3}, "x"])
def test_index_without_a_map(sharded, places):
    edit_json(sharded / INDEX, weight_map=places)
    with pytest.raises(SourceError, match="weight_map"):
        TensorSource.open(sharded)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a/../../b.safetensors", "model.bin"])
def test_index_pointing_outside(sharded, file):
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    edit_json(sharded / INDEX, weight_map={**places, NAME: file})
    with pytest.raises(SourceError, match="inside the folder"):
        TensorSource.open(sharded)


def test_shards_without_an_index(sharded):
    (sharded / INDEX).unlink()
    with pytest.raises(SourceError, match="Fetch the index"):
        TensorSource.open(sharded)


def test_no_weights_at_all(whole):
    (whole / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="holds no weights"):
        TensorSource.open(whole)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_only_pickle_weights(whole, name):
    (whole / "model.safetensors").unlink()
    (whole / name).write_bytes(b"\x80\x04.")
    with pytest.raises(SourceError, match=rf"only as pickle \({name}\).*never read"):
        TensorSource.open(whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(whole, value):
    edit_weights(whole, lambda tensors: tensors[NAME][5].fill_(value))
    source = TensorSource.open(whole)
    discover(source)
    with pytest.raises(SourceError, match=f"{NAME}.*NaN or infinite"):
        source.read(NAME)
    with pytest.raises(SourceError, match=NAME):
        source.read(NAME, slice(5, 6))
    assert source.read(NAME, slice(0, 5)).isfinite().all()


def test_dense_model(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="dense model of the family 'llama'"):
        discovered(tmp_path)


@pytest.mark.parametrize("family", ["deepseek_v3", "gpt_oss", "made_up"])
def test_unsupported_family(whole, family):
    edit_json(whole / "config.json", model_type=family)
    with pytest.raises(UnsupportedModelError, match=f"'{family}' are not supported.*olmoe"):
        discovered(whole)


def test_no_expert_tensor_though_the_config_has_experts(whole):
    edit_weights(whole, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".experts." in name])
    with pytest.raises(SourceError, match="speaks of experts"):
        discovered(whole)
    edit_json(whole / "config.json", model_type="granitemoe")
    with pytest.raises(UnsupportedModelError, match="'granitemoe' are not supported"):
        discovered(whole)


def test_code_in_the_checkpoint_is_not_run(whole):
    edit_json(whole / "config.json", model_type="own", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    (whole / "modeling_own.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(UnsupportedModelError, match="'own'"):
        discovered(whole)


def test_code_in_the_checkpoint_of_a_known_family_is_not_run(whole):
    edit_json(
        whole / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own", "AutoConfig": "modeling_own.C"}
    )
    (whole / "modeling_own.py").write_text("raise SystemExit('this was run')")
    assert discovered(whole).layers == 2


def test_quantised_checkpoint(whole):
    edit_json(whole / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnsupportedModelError, match=r"already quantised.*'gptq'"):
        discovered(whole)


def test_quantised_tensors_without_a_word_in_the_config(whole):
    edit_weights(whole, lambda tensors: tensors.update({NAME: tensors[NAME].to(torch.float8_e4m3fn)}))
    with pytest.raises(UnsupportedModelError, match=f"{NAME}.*float8"):
        discovered(whole)
    edit_weights(whole, lambda tensors: tensors.update({NAME: torch.zeros(32, 64), NAME + "_scale_inv": torch.ones(1)}))
    with pytest.raises(UnsupportedModelError, match=f"{NAME}_scale_inv"):
        discovered(whole)


def test_trunk_of_a_type_no_weight_has(whole):
    name = "model.layers.0.self_attn.q_proj.weight"
    edit_weights(whole, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(UnsupportedModelError, match=f"{name}.*int8"):
        discovered(whole)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (NAME, "no tensor"),
        ("model.layers.1.mlp.experts.7.down_proj.weight", "no tensor"),
        ("model.layers.0.self_attn.q_proj.weight", "no tensor for"),
        ("model.layers.1.input_layernorm.weight", "no tensor for"),
        ("model.embed_tokens.weight", "no tensor for"),
        ("lm_head.weight", "no tensor for"),
        ("model.norm.weight", "no tensor for"),
        ("model.layers.0.mlp.gate.weight", "has no router"),
    ],
)
def test_tensor_that_is_not_there(whole, name, error):
    edit_weights(whole, lambda tensors: tensors.pop(name))
    with pytest.raises(SourceError, match=error) as caught:
        discovered(whole)
    assert name.removesuffix(".gate.weight") in str(caught.value)


def test_layer_without_any_expert(whole):
    def drop(tensors):
        for name in [name for name in tensors if name.startswith("model.layers.1.mlp.")]:
            del tensors[name]

    edit_weights(whole, drop)
    with pytest.raises(SourceError, match="Decoder layer 1 has routed experts according to the config"):
        discovered(whole)


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.extra.weight", "model.layers.2.input_layernorm.weight", "extra"]
)
def test_tensor_without_a_place(whole, name):
    edit_weights(whole, lambda tensors: tensors.update({name: torch.zeros(64)}))
    with pytest.raises(CoverageError, match=f"no place for the tensor '{name}'"):
        discovered(whole)


def test_tensor_among_the_experts_of_unknown_kind(whole):
    name = "model.layers.0.mlp.experts.0.gate_proj.bias"
    edit_weights(whole, lambda tensors: tensors.update({name: torch.zeros(32)}))
    with pytest.raises(UnsupportedModelError, match=f"{name}.*no known expert layout"):
        discovered(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 9}, r"no tensor 'model\.layers\.0\.mlp\.experts\.8\.gate_proj\.weight'.*9 experts"),
        ({"num_experts": 7}, r"experts\.7\.down_proj\.weight' is there.*only 7 experts"),
        ({"intermediate_size": 48}, r"shape \[32, 64\].*width 48"),
        ({"hidden_size": 96, "num_attention_heads": 4}, r"hidden size 96"),
        ({"num_hidden_layers": 3}, "Decoder layer 2 has routed experts"),
        ({"vocab_size": 320}, r"has the shape \[304, 64\], not \[320, 64\]"),
        ({"num_experts": "many"}, "config"),
    ],
)
def test_config_at_odds_with_the_tensors(whole, changes, message):
    edit_json(whole / "config.json", **changes)
    with pytest.raises(SourceError, match=message):
        discovered(whole)


def test_fewer_layers_in_the_config(whole):
    edit_json(whole / "config.json", num_hidden_layers=1)
    with pytest.raises(CoverageError, match=r"no place for the tensor 'model\.layers\.1\."):
        discovered(whole)


def test_stacked_experts_of_the_wrong_shape(tiny_copy):
    folder = tiny_copy("olmoe", fused=True)
    name = "model.layers.0.mlp.experts.down_proj"
    edit_weights(folder, lambda tensors: tensors.update({name: tensors[name].mT}))
    with pytest.raises(SourceError, match=rf"{name}' has the shape \[8, 32, 64\].*need \[8, 64, 32\]"):
        discovered(folder)
