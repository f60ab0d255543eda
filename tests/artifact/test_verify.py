"""`verify` finds every damage and reports its progress."""

import pytest

from moecompress.artifact.reader import read_manifest
from moecompress.artifact.verify import verify
from moecompress.core.errors import ArtifactError, IntegrityError


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_progress_adds_up_to_the_files(sound):
    seen = []
    verify(sound, seen.append)
    assert sum(seen) == sum(file.bytes for file in read_manifest(sound).files.values())


def test_every_file_is_covered(sound):
    for path in sorted(sound.iterdir()):
        size = path.stat().st_size
        for position in sorted({0, 7, 8, 13, size // 3, size // 2, size - 1}):
            flip(path, position)
            try:
                with pytest.raises(ArtifactError, match=path.name):
                    verify(sound)
            finally:
                flip(path, position)
    verify(sound)


def test_damage_inside_an_expert_names_the_expert(artifact):
    entry = read_manifest(artifact).experts[1].experts[2]
    flip(artifact / "experts-00001.safetensors", entry.offset + 100)
    with pytest.raises(
        IntegrityError, match=r"experts-00001.safetensors: the weights of expert 2 of layer 1 are damaged"
    ):
        verify(artifact)


def test_damage_in_the_padding_of_a_record_is_found(artifact):
    entry = read_manifest(artifact).experts[0].experts[0]
    flip(artifact / "experts-00000.safetensors", entry.offset + entry.bytes - 1)
    with pytest.raises(IntegrityError, match=r"experts-00000.safetensors is damaged: its sha256"):
        verify(artifact)


def test_an_edited_readme_loads_but_does_not_verify(artifact):
    (artifact / "README.md").write_text("my own words")
    read_manifest(artifact)
    with pytest.raises(IntegrityError, match=r"README.md has 12 bytes"):
        verify(artifact)


def test_files_the_manifest_does_not_list_are_named(artifact):
    (artifact / ".gitattributes").write_text("x")
    verify(artifact)
    (artifact / "vocab.json").write_text("{}")
    read_manifest(artifact)
    with pytest.raises(ArtifactError, match=r"vocab.json is not listed"):
        verify(artifact)
