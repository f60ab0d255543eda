"""`priors.safetensors`: written and read back, part of the artifact's hash, refused when it does not fit the model."""

from __future__ import annotations

import struct

import pytest

from moecompress.artifact.builder import ArtifactBuilder
from moecompress.artifact.container import METADATA, Form, typed_header
from moecompress.artifact.files import ArtifactFolder
from moecompress.artifact.manifest import PRIORS
from moecompress.artifact.priors import forms, pack_priors, priors_file_bytes, priors_nbytes, read_priors
from moecompress.artifact.reader import ArtifactReader
from moecompress.artifact.verify import verify
from moecompress.core.errors import ArtifactError
from moecompress.testing.artifacts import ASSETS, EXPERTS, LAYERS, put_random_pieces, random_priors, seal

COUNTS = [3, 2]


def read(folder, data, experts=COUNTS):
    (folder / PRIORS).write_bytes(data)
    with ArtifactFolder(folder) as opened, opened.open(PRIORS) as file:
        return read_priors(file, experts)


def test_tables_are_read_back_and_sizes_are_exact(tmp_path):
    priors = random_priors(COUNTS)
    data = pack_priors(priors, COUNTS)
    assert len(data) == priors_file_bytes(COUNTS) == 4096 + priors_nbytes(COUNTS)
    again = read(tmp_path, data)
    assert (again.popularity, again.one_layer, again.two_layer) == (
        priors.popularity,
        priors.one_layer,
        priors.two_layer,
    )


def test_the_safetensors_library_reads_it(tmp_path):
    numpy_io = pytest.importorskip("safetensors.numpy")
    (tmp_path / PRIORS).write_bytes(pack_priors(random_priors(COUNTS), COUNTS))
    loaded = numpy_io.load_file(tmp_path / PRIORS)
    assert {name: (str(table.dtype), table.shape) for name, table in loaded.items()} == {
        "popularity": ("float32", (2, 3)),
        "one_layer": ("float16", (2, 3, 3)),
        "two_layer": ("float16", (2, 3, 3)),
    }


@pytest.fixture
def artifacts(tmp_path):
    """Folder names → artifacts with these priors."""
    builder = ArtifactBuilder(tmp_path / "work")
    put_random_pieces(builder)

    def make(name, data):
        return seal(builder, tmp_path / name, assets={**ASSETS, **({PRIORS: data} if data else {})})

    return make


def test_priors_are_part_of_the_artifact_and_of_its_hash(artifacts, tmp_path):
    experts = [EXPERTS] * LAYERS
    priors = random_priors(experts)
    with_priors = artifacts("with", pack_priors(priors, experts))
    verify(tmp_path / "with")
    assert with_priors.files[PRIORS].bytes == priors_file_bytes(experts)
    with ArtifactReader(tmp_path / "with") as reader:
        assert reader.priors().two_layer == priors.two_layer
    without = artifacts("without", None)
    with ArtifactReader(tmp_path / "without") as reader:
        assert reader.priors() is None
    other = artifacts("other", pack_priors(random_priors(experts, seed=1), experts))
    assert len({with_priors.artifact_hash, without.artifact_hash, other.artifact_hash}) == 3


def test_priors_of_another_model_are_found_when_read_and_by_verify(artifacts, tmp_path):
    artifacts("out", pack_priors(random_priors([4, 3]), [4, 3]))
    with ArtifactReader(tmp_path / "out") as reader, pytest.raises(ArtifactError, match="2 layers of at most 3"):
        reader.priors()
    with pytest.raises(ArtifactError, match=PRIORS):
        verify(tmp_path / "out")


def changed(name, index, value, kind):
    """A file whose table holds one other number."""
    priors = random_priors(COUNTS)
    table = bytearray(getattr(priors, name))
    struct.pack_into(kind, table, index * struct.calcsize(kind), value)
    tables = {field: getattr(priors, field) for field in forms(COUNTS)} | {name: bytes(table)}
    return typed_header(forms(COUNTS).items(), METADATA) + b"".join(tables.values())


@pytest.mark.parametrize(
    ("name", "index", "value", "kind", "words"),
    [
        ("popularity", 1, float("nan"), "<f", "outside 0 to 1"),
        ("popularity", 1, 1.5, "<f", "outside 0 to 1"),
        ("popularity", 1, -0.1, "<f", "outside 0 to 1"),
        ("popularity", 5, 0.5, "<f", "layer 1 has 2 experts"),
        ("one_layer", 3, float("nan"), "<e", "one_layer holds a value that is not finite"),
        ("two_layer", 3, float("-inf"), "<e", "two_layer holds a value that is not finite"),
        ("two_layer", 11, 1.0, "<e", "layer 1 has 2 experts"),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path, name, index, value, kind, words):
    with pytest.raises(ArtifactError, match=words):
        read(tmp_path, changed(name, index, value, kind))


def with_forms(changes, metadata=METADATA):
    tables = {name: form for name, form in {**forms(COUNTS), **changes}.items() if form}
    return typed_header(tables.items(), metadata) + bytes(sum(form.nbytes for form in tables.values()))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_forms({"popularity": Form("F16", (2, 3))}), "'popularity' is Form.*F16"),
        (with_forms({"one_layer": Form("F16", (2, 3, 4))}), "'one_layer'"),
        (with_forms({"two_layer": None}), "'two_layer' is None"),
        (with_forms({"more": Form("U8", (1,))}), "'more'"),
        (with_forms({}, metadata={"format": "other"}), "its metadata is"),
        (with_forms({})[:-1], "bytes, but its tensors end at"),
        (with_forms({}) + b"\0", "bytes, but its tensors end at"),
        (b"", "not in it"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, data, words):
    with pytest.raises(ArtifactError, match=words):
        read(tmp_path, data)


def test_tables_of_another_size_are_not_written():
    with pytest.raises(ArtifactError, match="'popularity' has 24 bytes"):
        pack_priors(random_priors([3, 2]), [3, 3, 3])
