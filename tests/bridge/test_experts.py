import json

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from moecompress.artifact.builder import ArtifactBuilder
from moecompress.bridge.experts import run_experts, store_stats
from moecompress.bridge.load import load_transformers
from moecompress.core.errors import ArtifactError, RequestError, UnsupportedModelError, UsageError

from .conftest import PROVENANCE, dense

COMMON = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "num_experts": 6,
    "num_local_experts": 6, "n_routed_experts": 6, "num_experts_per_tok": 2, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4, "first_k_dense_replace": 1, "n_shared_experts": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
GENERIC = {
    "deepseek_v3": LATENT,
    "granitemoe": {},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["full_attention"] * 3},
    "jamba": {
        "use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 8, "num_hidden_layers": 4,
        "attn_layer_period": 2, "attn_layer_offset": 1,
    },
}  # fmt: skip
REFUSED = {
    "gpt_oss": ({}, "GptOssExperts) have biases"),
    "gemma4_text": (
        {
            "enable_moe_block": True,
            "top_k_experts": 2,
            "vocab_size_per_layer_input": 96,
            "hidden_size_per_layer_input": 8,
        },
        "Gemma4TextExperts) compute something other than silu(gate) · up",
    ),
}


def random_model(family, **config):
    """A model whose experts matter; the routers' correction biases are not zero."""
    settings = CONFIG_MAPPING[family](**{**COMMON, **config})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "correction_bias" in name or "expert_bias" in name:
                tensor.copy_(torch.rand_like(tensor))
            elif tensor.ndim >= 2:
                tensor.copy_(torch.randn_like(tensor) * tensor.shape[-1] ** -0.5)
    return model


def experts_of(module):
    """The canonical matrices of each expert of a transformers module."""
    stacked, down = module.gate_up_proj.detach(), module.down_proj.detach()
    if module.is_transposed:
        stacked, down = stacked.mT, down.mT
    for joined, last in zip(stacked, down, strict=True):
        gate, up = joined.contiguous().chunk(2)
        yield {"gate": dense(gate), "up": dense(up), "down": dense(last.contiguous())}


def build(root, model, experts=None):
    """An artifact whose trunk tensors have their in-memory names; `experts` limits how many are written."""
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "is_transposed")}
    skipped = (*model.all_tied_weights_keys, *[f"{name}." for name in modules])
    trunk = {name: dense(value) for name, value in model.state_dict().items() if not name.startswith(skipped)}
    builder = ArtifactBuilder(root / "work")
    builder.put_trunk("trunk", trunk)
    for name, module in modules.items():
        builder.put_experts(int(name.split(".layers.")[1].split(".")[0]), list(experts_of(module))[:experts])
    config = json.loads(model.config.to_json_string())
    architecture = {"model_type": model.config.model_type, "config": config, "dtype": "float32"}
    builder.seal(root / "artifact", architecture=architecture, provenance=PROVENANCE, assets={})
    return root / "artifact"


@pytest.mark.parametrize("family", GENERIC)
def test_families_that_this_project_has_no_file_for(tmp_path, family):
    model = random_model(family, **GENERIC[family])
    served = load_transformers(build(tmp_path, model), threads=1)
    ids = torch.randint(2, 96, (2, 11))
    with torch.inference_mode():
        torch.testing.assert_close(served(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert store_stats(served).reads > 0


def test_what_transformers_keeps_in_float32_stays_so(tmp_path):
    model = random_model("deepseek_v3", **LATENT)
    served = load_transformers(build(tmp_path, model), threads=1, dtype="bfloat16")
    mine, theirs = (each.model.layers[1].mlp.gate for each in (served, model))
    assert mine.weight.dtype == torch.bfloat16
    assert mine.e_score_correction_bias.dtype == torch.float32
    assert torch.equal(mine.e_score_correction_bias, theirs.e_score_correction_bias)


@pytest.mark.parametrize("family", REFUSED)
def test_families_whose_experts_compute_something_else_are_refused(tmp_path, family):
    config, reason = REFUSED[family]
    artifact = build(tmp_path, random_model(family, **config))
    with pytest.raises(UnsupportedModelError) as caught:
        load_transformers(artifact)
    assert f"{family!r} model" in str(caught.value)
    assert reason in str(caught.value)


def test_an_artifact_that_does_not_fit_its_config_is_refused(tmp_path):
    model = random_model("granitemoe")
    with pytest.raises(UnsupportedModelError, match="number 5 in the artifact and 6 in its config"):
        load_transformers(build(tmp_path, model, experts=5))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "holds no experts"),
        ([0], "no experts for decoder layer 1"),
        ([0, 1, 2, 3], "for decoder layer 3 of a model of 3 layers"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, layers, message):
    model = random_model("granitemoe")
    experts = list(experts_of(model.model.layers[0].block_sparse_moe.experts))
    builder = ArtifactBuilder(tmp_path / "work")
    builder.put_trunk("trunk", {"model.norm.weight": dense(model.model.norm.weight.detach())})
    for layer in layers:
        builder.put_experts(layer, experts)
    config = json.loads(model.config.to_json_string())
    architecture = {"model_type": "granitemoe", "config": config, "dtype": "float32"}
    builder.seal(tmp_path / "artifact", architecture=architecture, provenance=PROVENANCE, assets={})
    with pytest.raises(ArtifactError, match=message):
        load_transformers(tmp_path / "artifact")


@pytest.fixture
def pair(case):
    """The first experts module of an artifact with dense experts, and the same of the reference."""
    made = case("olmoe", 0)
    model = load_transformers(made.artifact, threads=2)
    return model.model.layers[0].mlp.experts, made.reference.model.layers[0].mlp.experts


def call(experts, index, weights, hidden=None):
    rows = torch.randn((len(index), 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return experts(rows if hidden is None else hidden, torch.tensor(index), torch.tensor(weights))


@pytest.mark.parametrize(
    "index",
    [
        [[3, 1], [8, 2], [5, 8], [8, 8]],  # an index of the number of experts means none
        [[8, 2]],
        [[8, 8]],
        [[4], [7], [8]],  # fewer experts than usual
        [[6, 6], [1, 0], [0, 1]],  # one twice
        [[6, 6]],
    ],
)
def test_any_routing_gives_what_transformers_gives(pair, index):
    served, reference = pair
    weights = [[0.7, 0.4][: len(row)] for row in index]
    torch.testing.assert_close(call(served, index, weights), call(reference, index, weights), rtol=1e-5, atol=1e-5)


def test_larger_indices_mean_none_too(pair):
    served, _ = pair
    assert torch.equal(call(served, [[300, 2]], [[0.5, 0.5]]), call(served, [[8, 2]], [[0.5, 0.5]]))


def test_no_tokens_give_no_rows(pair):
    served, _ = pair
    nothing = torch.empty((0, 2))
    assert served(torch.empty((0, 64)), nothing.long(), nothing).shape == (0, 64)


def test_values_that_are_not_numbers_stay_in_their_row(case):
    made = case("olmoe", 4)
    experts = load_transformers(made.artifact, threads=1).model.layers[0].mlp.experts
    hidden = torch.ones((2, 64))
    hidden[0, 3] = torch.nan
    output = call(experts, [[0, 1], [0, 1]], [[0.5, 0.5], [0.5, 0.5]], hidden)
    assert output[0].isnan().all()
    assert output[1].isfinite().all()


@pytest.mark.parametrize(
    ("index", "weights", "message"),
    [
        ([[-1, 0]], [[0.5, 0.5]], "names expert -1"),
        ([[0, 1, 2]], [[0.5, 0.5, 0.5]], "names 3 experts per token; 1 to 2 are possible"),
        ([[0, 1]], [[0.5]], "as many weights as indices"),
    ],
)
def test_impossible_routings_are_refused(pair, index, weights, message):
    with pytest.raises(RequestError, match=message):
        call(pair[0], index, weights)


def test_vectors_of_another_size_are_refused(pair):
    with pytest.raises(RequestError, match="take vectors of 64 elements, not of 32"):
        call(pair[0], [[0, 1]], [[0.5, 0.5]], torch.ones((1, 32)))


def test_gradients_are_refused(case):
    model = load_transformers(case("olmoe", 4).artifact, threads=1)
    inputs = torch.randn((1, 4, 64), requires_grad=True)
    with pytest.raises(UsageError, match="No gradient can pass through experts"):
        model(inputs_embeds=inputs)
    with torch.no_grad():
        assert model(inputs_embeds=inputs).logits.isfinite().all()


def test_models_from_elsewhere_are_told_apart(case):
    reference = case("olmoe", 4).reference
    with pytest.raises(UsageError, match="OlmoeExperts was not loaded from an artifact"):
        run_experts(reference.model.layers[0].mlp.experts, torch.ones(1, 64), torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(UsageError, match=r"was not loaded with moecompress\.load_transformers"):
        store_stats(reference)
