"""Every tensor of an artifact has exactly one place in the forward pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moecompress.artifact.manifest import Manifest
from moecompress.artifact.reader import read_manifest
from moecompress.core.errors import ArtifactError
from moecompress.runtime import _native
from moecompress.runtime.tables import Tables, read_tables
from moecompress.testing.core_calls import small_options


@pytest.fixture(scope="module")
def manifest(encoded) -> Manifest:
    return read_manifest(encoded("qwen2_moe")[0])


def _changed(manifest: Manifest, change: Callable[[dict[str, Any]], None]) -> Manifest:
    trunk = dict(manifest.trunk)
    change(trunk)
    return replace(manifest, trunk=trunk)


def test_roles_cover_the_trunk(manifest):
    roles = {row[0] for row in read_tables(manifest).trunk}
    assert len(roles) == len(manifest.trunk)
    assert {"embedding", "head", "final_norm", "layers.1.router", "layers.0.shared.down", "layers.1.q_bias"} <= roles
    vectors = {row[0].rsplit(".", 1)[-1] for row in read_tables(manifest).trunk if row[2]}
    assert vectors == {"final_norm", "attention_norm", "ffn_norm", "q_bias", "k_bias", "v_bias"}


def test_a_missing_tensor_is_named(manifest):
    name = "model.layers.1.mlp.shared_expert_gate.weight"
    with pytest.raises(ArtifactError, match=f"lacks the trunk tensor '{name}'"):
        read_tables(_changed(manifest, lambda trunk: trunk.pop(name)))


def test_a_tensor_without_a_place_is_named(manifest):
    def add(trunk: dict[str, Any]) -> None:
        trunk["model.layers.0.self_attn.sinks"] = trunk["model.norm.weight"]

    with pytest.raises(ArtifactError, match=r"has a trunk tensor 'model\.layers\.0\.self_attn\.sinks'"):
        read_tables(_changed(manifest, add))


def test_buffers_that_follow_from_the_config_are_ignored(manifest):
    def add(trunk: dict[str, Any]) -> None:
        trunk["model.layers.0.self_attn.rotary_emb.inv_freq"] = trunk["model.norm.weight"]

    assert read_tables(_changed(manifest, add)).trunk == read_tables(manifest).trunk


def test_a_matrix_in_the_place_of_a_vector_is_refused(manifest):
    def swap(trunk: dict[str, Any]) -> None:
        trunk["model.norm.weight"] = trunk["lm_head.weight"]

    with pytest.raises(ArtifactError, match=r"'model\.norm\.weight' has the shape \[304, 64\]"):
        read_tables(_changed(manifest, swap))


def test_the_router_may_have_either_of_its_names(encoded):
    manifest = read_manifest(encoded("mixtral")[0])
    fused, own = "model.layers.0.mlp.gate.weight", "model.layers.0.block_sparse_moe.gate.weight"
    assert fused in manifest.trunk
    renamed = _changed(manifest, lambda trunk: trunk.update({own: trunk.pop(fused)}))
    assert {row[0] for row in read_tables(renamed).trunk} == {row[0] for row in read_tables(manifest).trunk}


def _native_model(folder: Path, tables: Tables, **changes: Any) -> Any:
    values = {"config": tables.architecture.flags(), "trunk": tables.trunk, "experts": tables.experts, **changes}
    return _native.Model(str(folder), values["config"], values["trunk"], values["experts"], small_options())


@pytest.mark.parametrize("value", [0, -1, 1, 31, 2**31 - 1, 2**31, 2**62, 2**63 - 1])
def test_the_core_refuses_numbers_that_do_not_fit(encoded, value):
    """Each number of a trunk tensor and of an expert's matrix in turn is replaced: an error, never a crash."""
    folder, _ = encoded("qwen2_moe")
    tables = read_tables(read_manifest(folder))
    first = next(index for index, row in enumerate(tables.trunk) if row[3][0] == "affine")
    role, file, vector, tensor = tables.trunk[first]
    layer, experts_file, experts = tables.experts[0]
    offset, count, gate, up, down = experts[1]
    for place in range(1, 7):
        if (place, value) != (5, 0):  # a tensor of the trunk may begin anywhere in its file
            row = (role, file, vector, _replaced(tensor, place, value))
            trunk = [*tables.trunk[:first], row, *tables.trunk[first + 1 :]]
            _refuses(lambda trunk=trunk: _native_model(folder, tables, trunk=trunk))
        row = (offset, count, gate, _replaced(up, place, value), down)
        layers = [(layer, experts_file, [experts[0], row, *experts[2:]]), *tables.experts[1:]]
        _refuses(lambda layers=layers: _native_model(folder, tables, experts=layers))


@pytest.mark.parametrize("value", [0, -1, 31, 2**31 - 1, 2**31, 2**62, 2**63 - 1])
@pytest.mark.parametrize("key", ["hidden", "vocabulary", "heads", "key_value_heads", "head_size", "top_k"])
def test_the_core_refuses_flags_that_do_not_fit(encoded, key, value):
    folder, _ = encoded("qwen2_moe")
    tables = read_tables(read_manifest(folder))
    config = {**tables.architecture.flags(), key: value}
    _refuses(lambda: _native_model(folder, tables, config=config))


def _replaced(tensor: tuple[Any, ...], place: int, value: int) -> tuple[Any, ...]:
    changed = (*tensor[:place], value, *tensor[place + 1 :])
    assert changed != tensor
    return changed


def _refuses(make: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, TypeError, MemoryError)):
        make()


def test_the_core_refuses_records_outside_their_file_and_links(encoded, tmp_path):
    folder, _ = encoded("qwen2_moe")
    tables = read_tables(read_manifest(folder))
    layer, file, experts = tables.experts[0]
    for offset in (experts[0][0] + 1, 1 << 40, (1 << 63) + 4096):
        broken = [(offset, *experts[0][1:]), *experts[1:]]
        with pytest.raises(ValueError, match=r"aligned|outside"):
            _native_model(folder, tables, experts=[(layer, file, broken), *tables.experts[1:]])
    for name in (f"../{folder.name}/{file}", "..", ""):
        with pytest.raises(ValueError, match="not the name"):
            _native_model(folder, tables, experts=[(layer, name, experts), *tables.experts[1:]])
    copy = Path(shutil.copytree(folder, tmp_path / "artifact"))
    (copy / file).unlink()
    (copy / file).symlink_to(folder / file)
    with pytest.raises(ValueError, match=r"Cannot open.*links are refused"):
        _native_model(copy, tables)


def test_routers_and_tables_have_to_agree(encoded):
    folder, _ = encoded("qwen2_moe")
    tables = read_tables(read_manifest(folder))
    with pytest.raises(ValueError, match="expert tables for 1 layers"):
        _native_model(folder, tables, experts=tables.experts[:1])
    fewer = [(layer, file, experts[:-1]) for layer, file, experts in tables.experts]
    with pytest.raises(ValueError, match="router of layer 0 does not fit"):
        _native_model(folder, tables, experts=fewer)
    swapped = [(7, *tables.experts[0][1:]), *tables.experts[1:]]
    with pytest.raises(ValueError, match="router of layer 0"):
        _native_model(folder, tables, experts=swapped)
