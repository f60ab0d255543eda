import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from moecompress.core.errors import UsageError
from moecompress.models.source import TensorSource
from moecompress.testing.family_checks import load_reference, random_ids
from moecompress.testing.tiny import EOS, FAMILIES, VOCABULARY, tiny_config, tiny_model, tiny_model_folder


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_not_degenerate(tiny, family):
    """Logits spread, differ between tokens, and every expert is chosen: so tests on these models can fail."""
    folder = tiny(family)
    model, ids = load_reference(folder), random_ids(TensorSource.open(folder), 0, (2, 64))
    chosen = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda module, inputs, output: chosen.append(output[2]))
    with torch.no_grad():
        logits = model(ids).logits
    assert 1 < logits.std() < 6
    assert logits.flatten(0, 1).std(dim=0).mean() > 0.5
    assert len(chosen) == 2
    for index in chosen:
        share = torch.bincount(index.flatten(), minlength=8) / index.numel()
        assert share.min() > 0.02 and share.max() < 0.4


def test_the_experts_matter(tiny):
    folder = tiny("qwen3_moe")
    model, ids = load_reference(folder), random_ids(TensorSource.open(folder), 0)
    with torch.no_grad():
        before = model(ids).logits
        for layer in model.model.layers:
            layer.mlp.experts.down_proj.zero_()
        change = (model(ids).logits - before).std() / before.std()
    assert change > 0.2


def test_same_arguments_same_bytes(tmp_path):
    one, two = (tiny_model_folder("mixtral", tmp_path / name, seed=3) for name in ("one", "two"))
    other = tiny_model_folder("mixtral", tmp_path / "other", seed=4)
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    tiny_model("olmoe")
    assert torch.equal(torch.rand(3), wanted)


def test_stacked_and_split_hold_the_same_weights(tiny):
    split, stacked = (load_file(tiny("olmoe", fused=fused) / "model.safetensors") for fused in (False, True))
    name = "model.layers.1.mlp.experts"
    both = torch.cat((split[f"{name}.5.gate_proj.weight"], split[f"{name}.5.up_proj.weight"]))
    assert torch.equal(stacked[f"{name}.gate_up_proj"][5], both)


def test_overrides_and_types(tmp_path):
    folder = tiny_model_folder("olmoe", tmp_path / "m", dtype="float32", num_experts=4, num_hidden_layers=1)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_experts"] == 4 and config["num_hidden_layers"] == 1
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float32}


def test_unknown_family():
    with pytest.raises(UsageError, match="no tiny model of the family 'gpt2'"):
        tiny_config("gpt2")


def test_tokenizer(tiny):
    tokenizer = Tokenizer.from_file(str(tiny("olmoe") / "tokenizer.json"))
    text = "The thing on an ion: été, 森, \x00 and\n\ttabs"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text and len(ids) < len(text.encode())
    assert tokenizer.get_vocab_size() <= VOCABULARY
    assert tokenizer.encode(EOS).ids == [tiny_config("olmoe").eos_token_id]


def test_chat_template(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny("mixtral"))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token_id == 256
