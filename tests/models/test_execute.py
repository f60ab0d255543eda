from functools import partial

import pytest
import torch

from moecompress.core.errors import CoverageError, UsageError
from moecompress.models.discover import discover
from moecompress.models.execute import LayerwiseModel, _Slot
from moecompress.models.experts import read_expert
from moecompress.models.source import TensorSource
from moecompress.testing.family_checks import check_forward, layerwise_logits, load_reference, random_ids
from moecompress.testing.tiny import FAMILIES

VARIANTS = {
    "sliding window in some layers": (
        "qwen2_moe",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2, "num_hidden_layers": 3},
    ),
    "sliding window": ("mixtral", {"sliding_window": 4}),
    "yarn": (
        "qwen3_moe",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "attention bias": ("qwen3_moe", {"attention_bias": True}),
    "clipped": ("olmoe", {"clip_qkv": 0.7}),
    "normalised router": ("olmoe", {"norm_topk_prob": True}),
    "router logits asked for": ("mixtral", {"output_router_logits": True}),
    "gelu": ("mixtral", {"hidden_act": "gelu_pytorch_tanh"}),
}


class Loaded:
    def __init__(self, folder):
        self.source = TensorSource.open(folder)
        self.layout = discover(self.source)
        self.model = LayerwiseModel(self.source.config, self.layout)

    def load(self, index):
        self.model.load_layer(index, self.source.read, partial(self.expert, index))

    def expert(self, index, expert):
        return read_expert(self.source, self.layout.moe[index], expert)

    def hidden(self, ids):
        self.model.load_embedding(self.source.read)
        return self.model.embed(ids)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_equal_transformers(tiny, variant):
    family, options = VARIANTS[variant]
    source = TensorSource.open(tiny(family, **options))
    check_forward(source, discover(source), load_reference(source.folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_between_layers(tiny, family):
    loaded = Loaded(tiny(family))
    ids = random_ids(loaded.source, 1)
    reference = load_reference(loaded.source.folder)
    with torch.no_grad():
        wanted = reference.model(ids, output_hidden_states=True).hidden_states
    hidden = loaded.hidden(ids)
    torch.testing.assert_close(hidden, wanted[0])
    loaded.load(0)
    torch.testing.assert_close(loaded.model.run_layer(hidden), wanted[1], rtol=1e-5, atol=1e-5)


def test_an_untied_head_beside_a_tied_config(tiny_copy):
    """transformers keeps two different tensors apart even when the config says that they are tied."""
    import json

    folder = tiny_copy("olmoe")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    source = TensorSource.open(folder)
    check_forward(source, discover(source), load_reference(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_capture(tiny, family):
    loaded = Loaded(tiny(family))
    ids = random_ids(loaded.source, 2)
    hidden = loaded.hidden(ids)
    loaded.load(0)
    seen = []
    with loaded.model.capture_moe(lambda *values: seen.append(values)):
        first = loaded.model.run_layer(hidden)
        loaded.model.run_layer(hidden[:1])
    assert torch.equal(loaded.model.run_layer(hidden), first) and len(seen) == 2
    inputs, index, weights, logits = seen[0]
    tokens = ids.numel()
    assert inputs.shape == (tokens, 64) and logits.shape == (tokens, 8)
    assert index.shape == weights.shape == (tokens, 2) and seen[1][0].shape == (tokens // 2, 64)
    router = loaded.source.read(loaded.layout.moe[0].router[0]).float()
    torch.testing.assert_close(logits, inputs @ router.T, rtol=1e-4, atol=1e-4)
    chosen, wanted = logits.softmax(-1).topk(2)
    if family in ("mixtral", "qwen3_moe"):
        chosen = chosen / chosen.sum(-1, keepdim=True)
    assert torch.equal(index, wanted)
    torch.testing.assert_close(weights, chosen)
    torch.testing.assert_close(seen[1][0], inputs[: tokens // 2], rtol=1e-4, atol=1e-4)


def test_capture_ends_with_an_error_too(tiny):
    loaded = Loaded(tiny("olmoe"))
    hidden = loaded.hidden(random_ids(loaded.source, 3))
    loaded.load(1)

    def broken(*values):
        raise ValueError("the callback failed")

    with pytest.raises(ValueError, match="the callback failed"), loaded.model.capture_moe(broken):
        loaded.model.run_layer(hidden)
    assert loaded.model.run_layer(hidden).shape == hidden.shape


def test_capture_of_a_dense_layer_is_silent(tiny):
    loaded = Loaded(tiny("qwen2_moe", mlp_only_layers=[0], num_hidden_layers=3))
    hidden = loaded.hidden(random_ids(loaded.source, 3))
    seen = []
    for index in range(3):
        loaded.load(index)
        with loaded.model.capture_moe(lambda *values, index=index: seen.append(index)):
            hidden = loaded.model.run_layer(hidden)
    assert seen == [1, 2]


def test_one_piece_is_resident(tiny):
    loaded = Loaded(tiny("mixtral"))
    parameters = loaded.model._skeleton.model

    def resident():
        layers = [slot.layer for slot in loaded.model._slots]
        return [*parameters.parameters(), *(value for layer in layers for value in layer.parameters())]

    def resident_bytes():
        return sum(value.nbytes for value in resident() if not value.is_meta)

    loaded.hidden(random_ids(loaded.source, 0))
    assert resident_bytes() == 304 * 64 * 4
    sizes = []
    for index in range(2):
        loaded.load(index)
        sizes.append(resident_bytes())
    assert sizes[0] == sizes[1] == 4 * (8 * 3 * 64 * 32 + 8 * 64 + 2 * 64 + 2 * 64 * 64 + 2 * 64 * 32)
    loaded.model.load_head(loaded.source.read)
    assert resident_bytes() == (304 + 1) * 64 * 4
    loaded.model.unload()
    assert resident_bytes() == 0


def test_sequences_in_a_batch_do_not_mix(tiny):
    source = TensorSource.open(tiny("qwen3_moe"))
    layout, ids = discover(source), random_ids(source, 4)
    together = layerwise_logits(source, layout, ids)
    torch.testing.assert_close(together[1:], layerwise_logits(source, layout, ids[1:]), rtol=1e-4, atol=1e-4)


def test_other_weights_give_other_results(tiny):
    loaded = Loaded(tiny("olmoe"))
    hidden = loaded.hidden(random_ids(loaded.source, 5))
    loaded.load(0)
    original = loaded.model.run_layer(hidden)

    def rounded(expert):
        return {part: value.float().mul(8).round() / 8 for part, value in loaded.expert(0, expert).items()}

    loaded.model.load_layer(0, loaded.source.read, rounded)
    difference = (loaded.model.run_layer(hidden) - original).abs().mean()
    assert 1e-3 < difference < original.abs().mean()


def test_pieces_are_asked_for_in_order(tiny):
    loaded = Loaded(tiny("olmoe"))
    hidden = torch.zeros(1, 3, 64)
    with pytest.raises(UsageError, match="resident is nothing"):
        loaded.model.run_layer(hidden)
    with pytest.raises(UsageError, match="embedding is not resident"):
        loaded.model.embed(torch.zeros(1, 3, dtype=torch.int32))
    loaded.load(0)
    with pytest.raises(UsageError, match=r"head is not resident \(resident is decoder layer 0\)"):
        loaded.model.head(hidden)
    loaded.model.unload()
    with pytest.raises(UsageError), loaded.model.capture_moe(lambda *values: None):
        pass


def test_wrong_shapes_and_missing_matrices_are_refused(tiny):
    loaded = Loaded(tiny("olmoe"))
    with pytest.raises(CoverageError, match="was given the shape"):
        loaded.model.load_layer(0, lambda name: torch.zeros(3), partial(loaded.expert, 0))
    whole = {"gate": torch.zeros(32, 64), "up": torch.zeros(32, 64), "down": torch.zeros(64, 32)}
    for projection, bad in (("up", {}), ("gate", {"gate": torch.zeros(1)}), ("down", {"down": torch.zeros(32, 64)})):
        given = {**{part: value for part, value in whole.items() if part != projection}, **bad}
        with pytest.raises(CoverageError, match=f"The {projection} matrix of expert 0 of decoder layer 0"):
            loaded.model.load_layer(0, loaded.source.read, lambda expert, given=given: given)
    loaded.load(0)
    assert loaded.model.run_layer(torch.ones(1, 2, 64)).isfinite().all()


def test_a_slot_answers_for_its_layer():
    """Some families ask a decoder layer for its attention type before they call it."""
    layer = torch.nn.Linear(2, 2)
    layer.attention_type = "sliding_attention"
    slot = _Slot(layer)
    assert slot.attention_type == "sliding_attention" and slot.given is None
    assert list(slot.parameters()) == []
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = slot.nothing_of_the_kind


def test_modules_of_the_resident_layer(tiny):
    loaded = Loaded(tiny("mixtral"))
    loaded.load(1)
    name = "model.layers.1.block_sparse_moe.gate.weight"
    assert torch.equal(loaded.model.module_of(name).weight, loaded.source.read(name).float())
    stacked = loaded.model.experts_module(1).gate_up_proj[4]
    assert torch.equal(stacked[:32], loaded.expert(1, 4)["gate"].float())
    with pytest.raises(CoverageError, match="no place for the tensor 'nothing'"):
        loaded.model.module_of("nothing")
    with pytest.raises(UsageError, match="layer 5 has no routed experts"):
        loaded.model.experts_module(5)
