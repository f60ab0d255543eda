"""Pieces, sealing, determinism, and what is left behind when something goes wrong."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from moecompress.artifact import builder as builder_module
from moecompress.artifact import writing
from moecompress.artifact.builder import ArtifactBuilder, artifact_bytes
from moecompress.artifact.reader import ArtifactReader, read_manifest
from moecompress.artifact.verify import verify
from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.base import EncodedWeight
from moecompress.codecs.dense import dense_weight
from moecompress.core.errors import ArtifactError, UsageError
from moecompress.testing.artifacts import (
    ASSETS,
    PROVENANCE,
    put_random_pieces,
    random_artifact,
    random_experts,
    random_trunk,
    random_weight,
    seal,
)

# A change here is a change of the format: raise FORMAT_VERSION, or find out what is not deterministic any more.
GOLDEN_HASH = "a2ebe6ab52d80071cfd3c3666b0edd568b3bd79073081b9624036f367bd45cc7"


def counted(bits, shape):
    """An affine weight whose numbers follow from their indices, so that the golden hash needs no random generator."""
    rows, columns = np.indices(shape)
    groups = np.arange(shape[0] * -(-shape[1] // 32), dtype=np.float16).reshape(shape[0], -1)
    codes = ((5 * rows + 3 * columns) % 2**bits).astype(np.uint8)
    spec = AffineSpec(bits=bits, group_size=32)
    return EncodedWeight(spec, shape, {"codes": codes, "scale": groups / 64, "minimum": -groups / 8})


@pytest.fixture
def builder(tmp_path):
    return ArtifactBuilder(tmp_path / "work")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_hash_of_a_fixed_artifact_is_golden(builder, tmp_path):
    vector = np.arange(33, dtype=np.float32) / 8
    builder.put_trunk("outside", {"norm": dense_weight(vector), "head": dense_weight(np.outer(vector, vector), "f32")})
    experts = [{"gate": counted(b, (24, 40)), "up": counted(b, (24, 40)), "down": counted(8, (40, 24))} for b in (3, 5)]
    builder.put_experts(2, experts)
    assert seal(builder, tmp_path / "out").artifact_hash == GOLDEN_HASH


def test_seal_returns_the_manifest_on_disk(builder, tmp_path):
    put_random_pieces(builder)
    manifest = seal(builder, tmp_path / "out")
    assert manifest == read_manifest(tmp_path / "out")
    verify(tmp_path / "out")


def test_order_of_pieces_does_not_matter(tmp_path, sound):
    builder = ArtifactBuilder(tmp_path / "work")
    builder.put_experts(1, random_experts(1))
    builder.put_trunk("layer-00001", dict(reversed(random_trunk(1).items())))
    builder.put_trunk("everything-else", {**random_trunk(0), **random_trunk(None)})
    builder.put_experts(0, random_experts(0))
    seal(builder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(sound)


def test_pieces_of_an_earlier_process_are_found_and_give_the_same_bytes(tmp_path, sound):
    ArtifactBuilder(tmp_path / "work").put_experts(0, random_experts(0))
    again = ArtifactBuilder(tmp_path / "work")
    assert again.has("experts-00000") and not again.has("experts-00001")
    put_random_pieces(again)
    seal(again, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(sound)


def test_a_piece_can_be_replaced(builder, tmp_path):
    put_random_pieces(builder)
    changed = random_experts(0)
    changed[0] = random_experts(1)[0]
    builder.put_experts(0, changed)
    seal(builder, tmp_path / "out")
    with ArtifactReader(tmp_path / "out") as reader:
        found = reader.expert(0, 0)["gate"].arrays["codes"]
    np.testing.assert_array_equal(found, random_experts(1)[0]["gate"].arrays["codes"])


def test_a_piece_killed_before_its_note_does_not_exist(builder, tmp_path, monkeypatch):
    put_random_pieces(builder)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(builder._pieces, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        builder.put_experts(0, random_experts(0))
    assert not ArtifactBuilder(tmp_path / "work").has("experts-00000")


def test_a_piece_killed_while_written_leaves_no_piece_and_a_repairable_rest(builder, tmp_path):
    stale = tmp_path / "work" / "experts-00000.safetensors.partial"
    stale.write_bytes(b"half a record")
    assert not builder.has("experts-00000")
    put_random_pieces(builder)
    assert not stale.exists() and builder.has("experts-00000")


def test_a_piece_cut_short_is_not_whole_and_is_not_sealed(builder, tmp_path):
    put_random_pieces(builder)
    data = tmp_path / "work" / "experts-00000.safetensors"
    os.truncate(data, data.stat().st_size - 1)
    assert not builder.has("experts-00000")
    with pytest.raises(ArtifactError, match="missing or cut short"):
        seal(builder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_refused_and_untouched(builder, tmp_path):
    put_random_pieces(builder)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UsageError, match="exists"):
        seal(builder, out)
    out.rmdir()
    out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists"):
        seal(builder, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "work"]


def test_a_place_that_cannot_be_made_is_a_clear_error(builder, tmp_path):
    put_random_pieces(builder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="out could not be written"):
        seal(builder, tmp_path / "file" / "out")


def test_something_that_appears_meanwhile_is_not_replaced(builder, tmp_path, monkeypatch):
    put_random_pieces(builder)
    write = builder_module.write_file

    def meanwhile(path, data):
        (tmp_path / "out").mkdir(exist_ok=True)
        return write(path, data)

    monkeypatch.setattr(builder_module, "write_file", meanwhile)
    with pytest.raises(UsageError, match="exists"):
        seal(builder, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / ".out.partial").exists()


def test_a_stale_temporary_folder_is_replaced(builder, tmp_path):
    put_random_pieces(builder)
    stale = tmp_path / ".out.partial"
    stale.mkdir()
    (stale / "rubbish").write_text("x")
    seal(builder, tmp_path / "out")
    assert not stale.exists() and not (tmp_path / "out" / "rubbish").exists()


class FullDisk:
    """os.write that fails with ENOSPC once `room` bytes were written, after a partial write as a real disk does."""

    def __init__(self, room):
        self.room = room
        self.write = os.write

    def __call__(self, descriptor, data):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self.write(descriptor, data[: self.room])
        self.room -= count
        return count


@pytest.mark.parametrize("room", [0, 100, 5000, 12_000, 20_000])
def test_a_full_disk_while_putting_leaves_nothing(builder, tmp_path, monkeypatch, room):
    monkeypatch.setattr(writing.os, "write", FullDisk(room))
    with pytest.raises(ArtifactError, match="No space left on device"):
        builder.put_experts(0, random_experts(0))
    monkeypatch.undo()
    assert list((tmp_path / "work").iterdir()) == []
    put_random_pieces(builder)


@pytest.mark.parametrize("room", [0, 5000, 23_000, 23_370, 23_400, 25_200])
def test_a_full_disk_while_sealing_leaves_nothing_and_the_pieces_stay(builder, tmp_path, monkeypatch, room, sound):
    put_random_pieces(builder)
    monkeypatch.setattr(writing.os, "write", FullDisk(room))
    with pytest.raises(ArtifactError, match="No space left on device"):
        seal(builder, tmp_path / "out")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    seal(builder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(sound)


def test_a_failing_fsync_is_an_error_too(builder, tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(writing.os, "fsync", fail)
    with pytest.raises(ArtifactError, match="Input/output error"):
        builder.put_trunk("outside", random_trunk(None))
    assert list((tmp_path / "work").iterdir()) == []


def test_where_links_are_impossible_files_are_copied(builder, tmp_path, monkeypatch, sound):
    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    put_random_pieces(builder)
    monkeypatch.setattr(builder_module.os, "link", refuse)
    seal(builder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(sound)
    assert (tmp_path / "out" / "experts-00000.safetensors").stat().st_nlink == 1


def test_a_bad_weight_leaves_no_piece(builder, tmp_path):
    experts = random_experts(0)
    weight = random_weight(AffineSpec(bits=2, group_size=32), (48, 40), 0)
    weight.arrays["scale"][0, 0] = np.nan
    experts[1] = {**experts[1], "down": weight}
    with pytest.raises(ArtifactError, match="scale that is not finite"):
        builder.put_experts(0, experts)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_tensor_in_two_pieces_is_refused(builder, tmp_path):
    put_random_pieces(builder)
    builder.put_trunk("second", {"model.norm.weight": dense_weight(np.ones(3, np.float32))})
    with pytest.raises(ArtifactError, match=r"'model.norm.weight' is in the pieces 'outside' and 'second'"):
        seal(builder, tmp_path / "out")


def test_nothing_to_seal(builder, tmp_path):
    with pytest.raises(ArtifactError, match="nothing to seal"):
        seal(builder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("name", ["../x", "", "A", "a/b", ".", "a.b", "x" * 65])
def test_piece_names_are_plain(builder, name):
    with pytest.raises(ArtifactError, match="cannot be named"):
        builder.put_trunk(name, random_trunk(None))


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "README.md", "../x.json", "a/b.json", "model.bin", "x.py", ".x.json", "a..json", "x.safetensors"],
)
def test_asset_names_are_plain_and_not_reserved(builder, tmp_path, name):
    put_random_pieces(builder)
    with pytest.raises(ArtifactError, match="cannot hold a file named"):
        seal(builder, tmp_path / "out", assets={**ASSETS, name: b""})
    assert not (tmp_path / "out").exists()


def test_assets_come_from_paths_too(builder, tmp_path):
    put_random_pieces(builder)
    (tmp_path / "source.model").write_bytes(b"\0" * 3_000_000)
    seal(builder, tmp_path / "out", assets={"tokenizer.model": tmp_path / "source.model", "LICENSE": b"free"})
    with ArtifactReader(tmp_path / "out") as reader:
        assert reader.asset("tokenizer.model") == b"\0" * 3_000_000 and reader.asset("LICENSE") == b"free"


@pytest.mark.parametrize("change", [{"seed": "7"}, {"seeds": 7}, {"source_hash": None}, {"recipe": 3}])
def test_bad_provenance_is_named(builder, tmp_path, change):
    put_random_pieces(builder)
    with pytest.raises(ArtifactError, match=f"Provenance of an artifact: {next(iter(change))}"):
        seal(builder, tmp_path / "out", provenance={**PROVENANCE, **change})


@pytest.mark.parametrize("value", [Path(), float("nan"), "\ud800", b"x", {1, 2}])
def test_values_that_are_not_json_are_refused(builder, tmp_path, value):
    put_random_pieces(builder)
    with pytest.raises(ArtifactError, match="must be plain JSON values"):
        seal(builder, tmp_path / "out", provenance={**PROVENANCE, "recipe": {"x": value}})
    assert not (tmp_path / "out").exists()


def test_provenance_and_evaluation_do_not_change_the_hash_but_the_config_does(builder, tmp_path, sound):
    put_random_pieces(builder)
    expected = read_manifest(sound).artifact_hash
    one = seal(builder, tmp_path / "one", provenance={**PROVENANCE, "seed": 8, "passes": [{"seconds": 3}]})
    two = seal(builder, tmp_path / "two", architecture={"model_type": "mixtral", "config": {}, "dtype": "bfloat16"})
    three = seal(builder, tmp_path / "three", assets={**ASSETS, "tokenizer.json": b"{}"})
    assert one.artifact_hash == expected
    assert len({expected, two.artifact_hash, three.artifact_hash}) == 3


def test_sealing_twice_from_the_same_pieces(tmp_path):
    first = random_artifact(tmp_path / "work", tmp_path / "a")
    second = random_artifact(tmp_path / "work", tmp_path / "b")
    assert first == second and contents(tmp_path / "a") == contents(tmp_path / "b")


def test_size_is_every_byte_of_the_folder(sound):
    manifest = read_manifest(sound)
    assert manifest.size.bytes == artifact_bytes(sound) == sum(len(data) for data in contents(sound).values())
    assert manifest.size.bits_per_weight == 8 * manifest.size.weight_bytes / manifest.size.parameters
