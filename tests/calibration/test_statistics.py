"""Statistics against the full transformers model, computed there from its hooks and plain formulas."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from moecompress.calibration.collect import collect
from moecompress.calibration.statistics import Coverage, coverage_summary, expert_hidden
from moecompress.calibration.store import StatisticsStore
from moecompress.core.errors import CalibrationError, UnsupportedModelError
from moecompress.core.types import Activation
from moecompress.models.experts import read_expert
from moecompress.testing.tiny import FAMILIES, tiny_model_folder

SUMS = ("wsum_raw", "wsum_used", "sal_reap", "ean", "act_max")


class Reference:
    """What the whole model in float32 says of its last layer, and of the inputs of every linear module."""

    def __init__(self, model):
        whole = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32, experts_implementation="eager")
        self.layer = whole.model.layers[-1]
        self.calls = {}
        self.linear_inputs = {}
        for name, module in whole.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(self._keep_input(f"{name}.weight"))
        self.layer.mlp.experts.register_forward_pre_hook(self._keep_call, with_kwargs=True)
        with torch.no_grad():
            whole.model(torch.from_numpy(model.tokens.ids).long())
        self.inputs, self.index, self.weights = self.calls

    def _keep_input(self, name):
        return lambda module, args: self.linear_inputs.update({name: args[0].flatten(0, -2).double()})

    def _keep_call(self, module, args, kwargs):
        self.calls = (*args, *kwargs.values())

    def sums(self):
        """Every expert on every token, then masked: no loop over routed tokens."""
        experts, gate = self.layer.mlp.experts, self.layer.mlp.gate
        probabilities = torch.softmax(self.inputs.double() @ gate.weight.double().mT, dim=-1)
        used = torch.zeros_like(probabilities).scatter_(1, self.index, self.weights.double())
        routed = torch.zeros_like(probabilities).scatter_(1, self.index, 1.0)
        raised = torch.einsum("th,eoh->teo", self.inputs.double(), experts.gate_up_proj.double())
        half = raised.shape[-1] // 2
        middle = nn.functional.silu(raised[..., :half]) * raised[..., half:]
        outputs = torch.einsum("tei,ehi->teh", middle, experts.down_proj.double())
        norms = outputs.norm(dim=-1)
        return {
            "count": routed.sum(0),
            "wsum_raw": (routed * probabilities).sum(0),
            "wsum_used": used.sum(0),
            "sal_reap": (used * norms).sum(0),
            "ean": (routed * norms).sum(0),
            "act_max": (routed[..., None] * outputs.abs()).amax(dim=(0, 2)),
            "coactivation": routed.mT @ routed,
            "absmax_in": self.inputs.abs().amax(0),
        }


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, opened, tmp_path_factory):
    model = opened(request.param)
    entry = collect(model.source, model.layout, model.tokens, StatisticsStore(tmp_path_factory.mktemp("store")))
    return model, entry, Reference(model)


def close(ours, reference, rtol=1e-4):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(reference.detach()), rtol=rtol, atol=1e-4)


def test_scalars_equal_those_of_the_whole_model(case):
    _, entry, reference = case
    statistics = entry.layer(1)
    for name, values in reference.sums().items():
        close(getattr(statistics, name), values)
    assert statistics.count.sum() == statistics.tokens * 2 == 2048
    assert (statistics.count.dtype, statistics.sal_reap.dtype) == (np.int64, np.float64)


def test_routing_and_inputs_equal_those_of_the_whole_model(case):
    _, entry, reference = case
    statistics = entry.layer(1)
    assert np.array_equal(statistics.top_k_index, reference.index.numpy())
    close(statistics.top_k_weights, reference.weights)
    assert statistics.router_input.dtype == np.uint16
    close(statistics.inputs(slice(None)), reference.inputs, rtol=2**-8)


def test_grams_of_experts_are_means_over_their_tokens(case):
    model, entry, reference = case
    statistics = entry.layer(1)
    matrices = read_expert(model.source, model.layout.moe[1], 2)
    inputs = reference.inputs.to(torch.bfloat16).double()
    chosen = inputs[(reference.index == 2).any(dim=1)]
    close(statistics.gram_in(2), chosen.mT @ chosen / len(chosen), rtol=1e-2)
    close(statistics.gram_layer(), inputs.mT @ inputs / len(inputs), rtol=1e-2)
    gate, up = matrices["gate"].double(), matrices["up"].double()
    middle = nn.functional.silu(chosen @ gate.mT) * (chosen @ up.mT)
    scale = float(middle.abs().max()) ** 2
    ours = statistics.gram_mid(2, matrices["gate"], matrices["up"]).double()
    torch.testing.assert_close(ours, middle.mT @ middle / len(middle), rtol=1e-2, atol=1e-3 * scale)
    changed = statistics.gram_mid(2, 2 * matrices["gate"], matrices["up"])
    assert not torch.allclose(changed.double(), ours, rtol=0.1)


def test_grams_of_linear_layers_outside_the_experts(case):
    model, entry, reference = case
    for layer in range(2):
        statistics = entry.layer(layer)
        linears = {name for name in reference.linear_inputs if f"layers.{layer}." in name}
        assert set(statistics.trunk_groups) == linears
        assert linears <= set(model.source.names)
        for name in linears:
            values = reference.linear_inputs[name]
            close(statistics.trunk_gram(name), values.mT @ values / len(values), rtol=1e-3)
    assert statistics.trunk_gram("model.norm.weight") is None


def test_layers_with_the_same_input_share_one_gram(case):
    _, entry, _ = case
    groups = {name.split("layers.0.")[1]: group for name, group in entry.layer(0).trunk_groups.items()}
    query = groups["self_attn.q_proj.weight"]
    assert groups["self_attn.k_proj.weight"] == groups["self_attn.v_proj.weight"] == query
    assert groups["self_attn.o_proj.weight"] != query
    if "mlp.shared_expert.gate_proj.weight" in groups:
        assert groups["mlp.shared_expert.up_proj.weight"] == groups["mlp.shared_expert.gate_proj.weight"]
        assert len(set(groups.values())) == 4


def test_shrinkage_follows_the_formula(case):
    model, entry, _ = case
    statistics = entry.layer(0)
    expert = int(statistics.count.argmin())
    matrices = read_expert(model.source, model.layout.moe[0], expert)
    gate, up = matrices["gate"], matrices["up"]
    tokens = int(statistics.count[expert])
    lam = tokens / (tokens + 64 / 2)
    expected = lam * statistics.gram_in(expert) + (1 - lam) * statistics.gram_layer()
    torch.testing.assert_close(statistics.shrunk_gram_in(expert), expected)
    lam = tokens / (tokens + 32 / 2)
    sample = statistics.inputs(statistics.sample(64))
    middle = nn.functional.silu(sample @ gate.float().mT) * (sample @ up.float().mT)
    layer = middle.mT @ middle / 64
    expected = lam * statistics.gram_mid(expert, gate, up) + (1 - lam) * layer
    torch.testing.assert_close(statistics.shrunk_gram_mid(expert, gate, up), expected, rtol=1e-4, atol=1e-4)
    assert statistics.coverage_table()[expert] == Coverage(0, expert, tokens, tokens / (tokens + 32))


@pytest.fixture(scope="module")
def dead(open_model, tmp_path_factory):
    """Expert 3 is never routed to: its logit is 0, and of 4, 5 and of 6, 7 one each is above that."""
    folder = tiny_model_folder("qwen3_moe", tmp_path_factory.mktemp("dead"))
    tensors = load_file(folder / "model.safetensors")
    router = tensors["model.layers.0.mlp.gate.weight"]
    router[3] = 0
    router[5], router[7] = -router[4], -router[6]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = open_model(folder)
    entry = collect(model.source, model.layout, model.tokens, StatisticsStore(tmp_path_factory.mktemp("store")))
    return model, entry.layer(0)


def test_a_dead_expert_gets_the_layers_gram(dead):
    model, statistics = dead
    assert statistics.count[3] == 0 and statistics.rows(3).size == 0
    assert [getattr(statistics, name)[3] for name in SUMS] == [0.0] * 5
    assert torch.equal(statistics.gram_in(3), torch.zeros(64, 64))
    assert torch.equal(statistics.shrunk_gram_in(3), statistics.gram_layer())
    matrices = read_expert(model.source, model.layout.moe[0], 3)
    middle = statistics.shrunk_gram_mid(3, matrices["gate"], matrices["up"])
    assert torch.equal(middle, statistics.gram_mid_layer(matrices["gate"], matrices["up"]))
    assert torch.linalg.eigvalsh(middle.double()).max() > 0
    assert statistics.coverage_table()[3].lam == 0.0


def test_the_summary_counts_rare_and_dead_experts(dead):
    _, statistics = dead
    summary = coverage_summary(statistics.coverage_table(), 64)
    assert summary.startswith("8 experts saw 0 to") and summary.endswith("1 saw none")
    rows = [Coverage(0, expert, tokens, 0.5) for expert, tokens in enumerate((0, 63, 64, 900))]
    assert coverage_summary(rows, 64) == (
        "4 experts saw 0 to 900 tokens (median 63); 2 saw fewer than the 64 of a full-rank Gram, 1 saw none"
    )


def test_a_dense_layer_has_only_linear_layers(open_model, tmp_path):
    folder = tiny_model_folder("qwen3_moe", tmp_path / "model", mlp_only_layers=[0])
    model = open_model(folder)
    statistics = collect(model.source, model.layout, model.tokens, StatisticsStore(tmp_path / "store")).layer(0)
    assert statistics.experts == 0 and statistics.coverage_table() == []
    assert statistics.trunk_gram("model.layers.0.mlp.down_proj.weight").shape == (96, 96)
    with pytest.raises(CalibrationError, match="no expert 0"):
        statistics.gram_in(0)


def test_activations_outside_the_model():
    inputs, gate, up = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3, 4)
    hidden = expert_hidden(inputs, gate, up, Activation("gelu"))
    torch.testing.assert_close(hidden, nn.functional.gelu(inputs @ gate.mT) * (inputs @ up.mT))
    ungated = expert_hidden(inputs, None, up, Activation("relu2", gated=False))
    torch.testing.assert_close(ungated, (inputs @ up.mT).relu() ** 2)
    with pytest.raises(UnsupportedModelError, match="limit"):
        expert_hidden(inputs, gate, up, Activation("silu", limit=7.0))
