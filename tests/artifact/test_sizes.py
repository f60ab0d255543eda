"""Sizes foretold from specs and shapes are the sizes written."""

from moecompress.artifact.reader import read_manifest
from moecompress.artifact.sizes import expert_bits, experts_file, place_trunk, planned_weight_bytes, reading_order
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.dense import DenseSpec
from moecompress.testing.artifacts import LAYERS, random_experts, random_trunk


def planned(weights):
    return {name: (weight.spec, weight.shape) for name, weight in weights.items()}


def test_planned_weight_bytes_are_the_bytes_on_disk(sound):
    trunk = {**planned(random_trunk(None)), **planned(random_trunk(0)), **planned(random_trunk(1))}
    experts = {layer: [planned(expert) for expert in random_experts(layer)] for layer in range(LAYERS)}
    on_disk = sum(path.stat().st_size for path in sound.glob("*.safetensors"))
    assert planned_weight_bytes(trunk, experts) == on_disk == read_manifest(sound).size.weight_bytes


def test_expert_bits(sound):
    layer = read_manifest(sound).experts[0]
    assert expert_bits(layer.experts[1]) == {"gate": 8.0, "up": 8.0, "down": 8.0}
    assert expert_bits(layer.experts[2])["down"] == 16.0


def test_trunk_is_in_reading_order_on_lines():
    spec = DenseSpec(dtype="bf16")
    names = ["layers.10.w", "layers.9.w", "norm", "a"]
    _, table, size = place_trunk(dict.fromkeys(names, (spec, (33,))))
    assert list(table) == ["a", "layers.9.w", "layers.10.w", "norm"]
    assert [entry.offset for entry in table.values()] == [4096, 4224, 4352, 4480] and size == 4608
    assert all(entry.bytes == 66 for entry in table.values())


def test_order_does_not_depend_on_insertion():
    spec = AffineSpec(bits=2, group_size=32)
    one = {"b": (spec, (4, 4)), "a": (spec, (8, 8))}
    assert place_trunk(one) == place_trunk(dict(reversed(one.items())))


def test_names():
    assert experts_file(7) == "experts-00007.safetensors"
    assert sorted(["x10y", "x9y", "x9"], key=reading_order) == ["x9", "x9y", "x10y"]
