import copy
import json
import pickle
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import moecompress
from moecompress.bridge.load import load_transformers
from moecompress.core.errors import ArtifactError, UsageError
from moecompress.testing.tiny import FAMILIES

from .conftest import PROVENANCE, encode_checkpoint, write_artifact


def logits(model, ids, **options):
    with torch.inference_mode():
        return model(ids, **options).logits


def check_close(found, wanted, tolerance):
    """The largest difference is at most `tolerance` standard deviations of the logits."""
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.std())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("bits", "tolerance"), [(0, 3e-5), (2, 1e-3), (4, 1e-3)])
def test_logits_are_those_of_the_dequantised_weights(case, ids, family, bits, tolerance):
    made = case(family, bits)
    model = load_transformers(made.artifact, threads=1)
    check_close(logits(model, ids()), logits(made.reference, ids()), tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_text_is_that_of_the_dequantised_weights(case, ids, family):
    made = case(family, 4)
    model = load_transformers(made.artifact, threads=1)
    prompt = ids(2, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(prompt, **options), made.reference.generate(prompt, **options))


def test_padding_and_cached_positions_work_as_in_any_model(case, ids):
    made = case("qwen3_moe", 4)
    model = load_transformers(made.artifact, threads=1)
    mask = torch.ones_like(ids())
    mask[0, :7] = 0
    found, wanted = (logits(m, ids(), attention_mask=mask) for m in (model, made.reference))
    check_close(found[mask.bool()], wanted[mask.bool()], 1e-3)
    with torch.inference_mode():
        first = model(ids(1, 12), use_cache=True)
        rest = model(ids(1, 20)[:, 12:], past_key_values=model(ids(1, 20)[:, :12], use_cache=True).past_key_values)
    assert first.past_key_values.get_seq_length() == 12
    check_close(rest.logits, logits(made.reference, ids(1, 20))[:, 12:], 1e-3)


def test_generation_ends_where_the_artifacts_generation_config_says(case, ids):
    prompt, mask = ids(1, 8), torch.ones((1, 8), dtype=torch.long)
    plain = load_transformers(case("olmoe", 4).artifact, threads=1)
    text = plain.generate(prompt, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=0)[0, 8:]
    third = int(text[2])
    assert third not in text[:2].tolist()
    made = case("olmoe", 4, generation={"eos_token_id": [3, third], "pad_token_id": 0, "max_new_tokens": 10})
    model = load_transformers(made.artifact, threads=1)
    assert model.generation_config.eos_token_id == [3, third]
    assert model.generate(prompt, attention_mask=mask)[0, 8:].tolist() == text[:3].tolist()


def test_it_is_an_ordinary_model_with_its_tokenizer_beside_it(case):
    made = case("mixtral", 4)
    model = moecompress.load_transformers(str(made.artifact), threads=1)
    assert isinstance(model, PreTrainedModel)
    assert type(model) is type(made.reference)
    assert not model.training
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    assert tokenizer.decode(tokenizer("and the model").input_ids) == "and the model"


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("qwen3_moe", {"mlp_only_layers": [0]}),
        ("qwen2_moe", {"decoder_sparse_step": 2}),
        ("olmoe", {"tie_word_embeddings": True}),
        ("mixtral", {"num_experts_per_tok": 3, "sliding_window": 8}),
    ],
)
def test_dense_layers_and_tied_weights(case, ids, family, config):
    made = case(family, 4, **config)
    model = load_transformers(made.artifact, threads=1)
    check_close(logits(model, ids()), logits(made.reference, ids()), 1e-3)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == config.get("tie_word_embeddings", False)


def test_expert_weights_are_not_in_the_model(case):
    made = case("mixtral", 4)
    model = load_transformers(made.artifact, threads=1)
    experts = {name for name, _ in made.reference.named_parameters() if ".experts." in name}
    assert set(model.state_dict()) == set(made.reference.state_dict())
    for name, parameter in model.named_parameters():
        assert not parameter.is_meta
        assert parameter.numel() == (0 if name in experts else made.reference.get_parameter(name).numel())
    whole, inside = (m.num_parameters() for m in (made.reference, model))
    assert inside == whole - sum(made.reference.get_parameter(name).numel() for name in experts)
    assert inside < 0.6 * whole


def test_other_types_of_the_trunk(case, ids):
    made = case("qwen2_moe", 4)
    model = load_transformers(made.artifact, threads=1, dtype="bfloat16")
    wanted = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert ".experts." in name or torch.equal(parameter, wanted.get_parameter(name))
    found = logits(model, ids())
    assert found.dtype == torch.bfloat16
    assert float((found - logits(made.reference, ids())).norm() / found.norm()) < 0.2
    converted = load_transformers(made.artifact, threads=1).to(torch.bfloat16)
    assert float((logits(converted, ids()) - found).norm() / found.norm()) < 0.2


def test_options_out_of_range_are_refused(case):
    artifact = case("olmoe", 4).artifact
    with pytest.raises(UsageError, match=r"dtype = 'int8' is not possible\. Allowed: float32, bfloat16, float16"):
        load_transformers(artifact, dtype="int8")
    with pytest.raises(UsageError, match="threads = 0"):
        load_transformers(artifact, threads=0)
    with pytest.raises(UsageError, match="not a size"):
        load_transformers(artifact, memory="much")


def test_the_model_cannot_be_saved_or_pickled_but_copied(case, ids, tmp_path):
    model = load_transformers(case("olmoe", 4).artifact, threads=1)
    with pytest.raises(UsageError, match="cannot be saved: its experts are not parameters but come from the artifact"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(UsageError, match="cannot be dequantised in memory"):
        model.dequantize()
    with pytest.raises(UsageError, match="cannot be pickled"):
        pickle.dumps(model)
    assert torch.equal(logits(copy.deepcopy(model), ids()), logits(model, ids()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda trunk: trunk.pop("model.norm.weight"), "has no tensor for 'model.norm.weight'"),
        (
            lambda trunk: trunk.pop("model.layers.1.mlp.gate.weight"),
            "has no tensor for 'model.layers.1.mlp.gate.weight'",
        ),
        (
            lambda trunk: trunk.update(extra=trunk["model.norm.weight"]),
            "has no place for the artifact's tensor 'extra'",
        ),
        (
            lambda trunk: trunk.update({"model.norm.weight": trunk["model.layers.0.self_attn.q_norm.weight"]}),
            r"'model.norm.weight' has the shape \[32\]; its config asks for \[64\]",
        ),
    ],
)
def test_a_trunk_that_does_not_fit_its_config_is_refused(tiny, tmp_path, change, message):
    from moecompress.artifact.builder import ArtifactBuilder

    folder = tiny("qwen3_moe")
    encoded = encode_checkpoint(folder, 4)
    write_artifact(tmp_path / "sound", folder, encoded, {})
    trunk = {name: weight for name, weight in encoded.items() if ".experts." not in name}
    change(trunk)
    builder = ArtifactBuilder(tmp_path / "work")
    builder.put_trunk("trunk", trunk)
    config = json.loads((folder / "config.json").read_text())
    architecture = {"model_type": "qwen3_moe", "config": config, "dtype": "bfloat16"}
    builder.seal(tmp_path / "broken", architecture=architecture, provenance=PROVENANCE, assets={})
    with pytest.raises(ArtifactError, match=message):
        load_transformers(tmp_path / "broken", threads=1)


def test_a_folder_without_a_manifest_is_refused(tiny, tmp_path):
    with pytest.raises(ArtifactError):
        load_transformers(shutil.copytree(tiny("olmoe"), tmp_path / "model"))


def test_it_can_be_evaluated(case, ids):
    from moecompress.evaluate.targets import open_target

    made = case("qwen2_moe", 4)
    target = open_target(made.artifact, "transformers", 64)
    (found,) = target.logits([ids(1, 16)[0].to(torch.int32).numpy()])
    assert target.vocabulary == found.shape[1]
    check_close(torch.from_numpy(found), logits(made.reference, ids(1, 16))[0], 1e-3)
