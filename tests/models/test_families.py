import pytest

from moecompress.core.errors import UnsupportedModelError
from moecompress.models.families.base import families, family_of
from moecompress.testing.family_checks import check_family
from moecompress.testing.tiny import FAMILIES

VARIANTS = {
    "plain": {},
    "stacked and sharded": {"fused": True, "sharded": True},
    "tied": {"tie_word_embeddings": True, "sharded": True},
}


def test_every_registered_family_has_a_tiny_model():
    assert sorted(families()) == sorted(FAMILIES)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_conformance(tiny, family, variant):
    check_family(tiny(family, **VARIANTS[variant]))


def test_conformance_with_a_dense_layer(tiny):
    check_family(tiny("qwen2_moe", mlp_only_layers=[0], num_hidden_layers=3))


def test_conformance_catches_a_swapped_projection(tiny_copy):
    """Gate and up exchanged in one expert: still a valid checkpoint, but no longer the one that was discovered."""
    from safetensors.torch import load_file, save_file

    from moecompress.models.discover import discover
    from moecompress.models.source import TensorSource
    from moecompress.testing.family_checks import check_forward, load_reference

    folder = tiny_copy("olmoe")
    reference = load_reference(folder)
    tensors = load_file(folder / "model.safetensors")
    gate, up = (f"model.layers.0.mlp.experts.3.{part}_proj.weight" for part in ("gate", "up"))
    save_file({**tensors, gate: tensors[up], up: tensors[gate]}, folder / "model.safetensors", {"format": "pt"})
    source = TensorSource.open(folder)
    with pytest.raises(AssertionError):
        check_forward(source, discover(source), reference)


def test_unknown_family_lists_the_known():
    with pytest.raises(
        UnsupportedModelError, match=r"'llama4' are not supported.*mixtral, olmoe, qwen2_moe, qwen3_moe"
    ):
        family_of("llama4")
