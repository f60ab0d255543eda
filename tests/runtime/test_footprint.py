"""What a token touches, against the manifest's own tables."""

from __future__ import annotations

import pytest

from moecompress.artifact.reader import read_manifest
from moecompress.runtime.footprint import Footprint
from moecompress.runtime.tables import read_tables


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen2_moe", "mixtral"])
def test_bytes_are_those_of_the_tables(encoded, family):
    manifest = read_manifest(encoded(family)[0])
    tables = read_tables(manifest)
    footprint, top_k = Footprint.of(tables), tables.architecture.top_k
    trunk = {name: tensor.bytes for name, tensor in manifest.trunk.items()}
    embedding = trunk["model.embed_tokens.weight"]
    assert footprint.trunk_bytes == sum(trunk.values()) - (0 if tables.architecture.tied else embedding)
    experts = [layer.experts for layer in manifest.experts]
    of_one = [sum(tensor.bytes for tensor in layer[0].projections.values()) for layer in experts]
    assert footprint.expert_bytes == top_k * sum(of_one)  # equal bits: every expert of a layer is alike
    assert footprint.token_set == top_k * len(experts) and footprint.experts == sum(map(len, experts))
    assert footprint.record_bytes == top_k * sum(layer[0].bytes for layer in experts)
    assert footprint.all_records_bytes == sum(expert.bytes for layer in experts for expert in layer)
    assert footprint.token_bytes == footprint.trunk_bytes + footprint.expert_bytes
