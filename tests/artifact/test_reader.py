"""Reading gives back what was put, through files that stay the checked ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moecompress.artifact.reader import ArtifactReader, read_manifest
from moecompress.codecs.table import codec_of
from moecompress.core.errors import ArtifactError, IntegrityError, UsageError
from moecompress.testing.artifacts import LAYERS, random_experts, random_trunk


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def assert_same(found, expected):
    assert found.spec == expected.spec and found.shape == expected.shape
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def test_every_trunk_tensor_comes_back(sound):
    with ArtifactReader(sound) as reader:
        expected = {**random_trunk(None), **random_trunk(0), **random_trunk(1)}
        assert set(reader.manifest.trunk) == set(expected)
        for name, weight in expected.items():
            assert_same(reader.trunk(name), weight)
            np.testing.assert_array_equal(reader.packed_trunk(name), codec_of(weight.spec).pack(weight))


def test_every_expert_comes_back(sound):
    with ArtifactReader(sound) as reader:
        for layer in range(LAYERS):
            for index, expected in enumerate(random_experts(layer)):
                found = reader.expert(layer, index)
                assert list(found) == ["gate", "up", "down"]
                for name, weight in expected.items():
                    assert_same(found[name], weight)


def test_a_packed_expert_is_the_record_of_the_file(sound):
    with ArtifactReader(sound) as reader:
        entry = reader.manifest.experts[1].experts[2]
        data = (sound / "experts-00001.safetensors").read_bytes()
        assert reader.packed_expert(1, 2).tobytes() == data[entry.offset : entry.offset + entry.bytes]


def test_the_safetensors_library_sees_the_same_records(sound):
    numpy_io = pytest.importorskip("safetensors.numpy")
    loaded = numpy_io.load_file(sound / "experts-00001.safetensors")
    trunk = numpy_io.load_file(sound / "trunk.safetensors")
    with ArtifactReader(sound) as reader:
        np.testing.assert_array_equal(loaded["layers.1.experts.0"], reader.packed_expert(1, 0))
        for name, entry in reader.manifest.trunk.items():
            np.testing.assert_array_equal(trunk[name][: entry.bytes], reader.packed_trunk(name))
            assert not trunk[name][entry.bytes :].any()


def test_unknown_names_are_refused(sound):
    with ArtifactReader(sound) as reader:
        with pytest.raises(UsageError, match="no trunk tensor 'x'"):
            reader.trunk("x")
        with pytest.raises(UsageError, match="no experts in layer 2"):
            reader.expert(2, 0)
        with pytest.raises(UsageError, match="experts 0 to 2, not -1"):
            reader.expert(0, -1)
        with pytest.raises(UsageError, match=r"holds no 'README.md'"):
            reader.asset("README.md")


def test_open_files_survive_the_folder(artifact):
    with ArtifactReader(artifact) as reader:
        shutil.rmtree(artifact)
        assert_same(reader.expert(0, 1)["up"], random_experts(0)[1]["up"])


def test_a_file_cut_after_opening_is_an_error_not_wrong_numbers(artifact):
    with ArtifactReader(artifact) as reader:
        os.truncate(artifact / "experts-00001.safetensors", 9000)
        with pytest.raises(IntegrityError, match="became shorter"):
            reader.expert(1, 2)


def test_reader_closes_its_files(sound):
    before = open_files()
    with ArtifactReader(sound):
        assert open_files() > before
    read_manifest(sound)
    assert open_files() == before


def test_a_refused_artifact_leaves_no_file_open(artifact):
    (artifact / "trunk.safetensors").unlink()
    before = open_files()
    with pytest.raises(ArtifactError):
        read_manifest(artifact)
    assert open_files() == before


def test_no_torch_is_imported(sound):
    code = (
        "import sys; from pathlib import Path; import moecompress.artifact.builder; "
        f"from moecompress.artifact.verify import verify; verify(Path({str(sound)!r})); "
        "print(sorted({'torch', 'transformers', 'safetensors', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
