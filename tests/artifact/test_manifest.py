"""Text, hashes and types of the manifest."""

import hashlib
import json
import re
from dataclasses import replace

import pytest

from moecompress.artifact.manifest import (
    behaviour_hash,
    check_hashes,
    manifest_text,
    parse_manifest,
)
from moecompress.core.errors import ArtifactError, IntegrityError


@pytest.fixture
def data(sound):
    return (sound / "manifest.json").read_bytes()


def edited(data, change):
    plain = json.loads(data)
    change(plain)
    return json.dumps(plain).encode()


def test_text_round_trip(data):
    manifest = parse_manifest(data, "m")
    assert manifest_text(manifest, len(data)) == data
    check_hashes(manifest, data, "m")


def test_checksum_is_what_the_format_says(data):
    digits = re.search(rb'"checksum": "([0-9a-f]{64})"', data).group(1)
    assert hashlib.sha256(data.replace(digits, b"0" * 64)).hexdigest() == digits.decode()


def test_text_of_a_length(data):
    manifest = parse_manifest(data, "m")
    text = manifest_text(manifest, 9000)
    assert len(text) == 9000 and text.endswith(b"}" + b" " * (9000 - len(manifest_text(manifest))) + b"\n")


def test_one_top_level_key_a_line_and_the_checksum_last(data):
    lines = data.decode().strip().splitlines()
    assert lines[0] == "{" and lines[-1] == "}" and lines[-2].startswith('"checksum"')
    assert [json.loads("{" + line.rstrip(",") + "}") for line in lines[1:-1]]


def test_every_changed_byte_is_found(data):
    manifest = parse_manifest(data, "m")
    for position in range(0, len(data), 11):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(ArtifactError):
            check_hashes(parse_manifest(bytes(changed), "m"), bytes(changed), "m")
    check_hashes(manifest, data, "m")


def test_added_and_removed_spaces_are_found(data):
    manifest = parse_manifest(data, "m")
    for changed in (data + b" ", data[:-1], data[:-2] + b"\t\n"):
        with pytest.raises(IntegrityError, match="was changed after it was written"):
            check_hashes(manifest, changed, "m")


def test_an_artifact_hash_of_other_tables_is_found(data):
    manifest = replace(parse_manifest(data, "m"), artifact_hash="1" * 64)
    text = manifest_text(manifest)
    with pytest.raises(IntegrityError, match="artifact_hash does not match"):
        check_hashes(parse_manifest(text, "m"), text, "m")


def test_behaviour_hash_leaves_out_what_does_not_matter(data):
    manifest = parse_manifest(data, "m")
    other = replace(manifest.provenance, seed=99)
    files = {**manifest.files, "README.md": manifest.files["tokenizer.json"]}
    changed = replace(manifest, provenance=other, evaluation={"a": 1}, files=files)
    assert behaviour_hash(changed) == manifest.artifact_hash


@pytest.mark.parametrize("key", ["architecture", "codecs", "trunk", "experts", "files"])
def test_behaviour_hash_covers_what_matters(data, key):
    manifest = parse_manifest(data, "m")
    empty = () if key == "experts" else {}
    value = replace(manifest.architecture, dtype="float16") if key == "architecture" else empty
    assert behaviour_hash(replace(manifest, **{key: value})) != manifest.artifact_hash


@pytest.mark.parametrize("version", [2, 0, -1, "1", 1.0, True, None, [1], 2**70])
def test_other_format_versions_are_refused_by_number(data, version):
    with pytest.raises(ArtifactError, match=r"format_version .*; this moecompress reads version 1"):
        parse_manifest(edited(data, lambda plain: plain.update(format_version=version)), "m")


@pytest.mark.parametrize("change", [{"format": "gguf"}, {"format": None}])
def test_other_formats_are_refused(data, change):
    with pytest.raises(ArtifactError, match="not the manifest of a moecompress artifact"):
        parse_manifest(edited(data, lambda plain: plain.update(change)), "m")


@pytest.mark.parametrize("text", [b"[]", b"1", b"null", b'"moecompress"', b"{}"])
def test_other_json_is_refused(text):
    with pytest.raises(ArtifactError, match="not the manifest of a moecompress artifact"):
        parse_manifest(text, "m")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda m: m.update(more=1), "more"),
        (lambda m: m.pop("size"), "size"),
        (lambda m: m["size"].update(bytes=-1), r"size\.bytes"),
        (lambda m: m["size"].update(bytes=2**63), r"size\.bytes"),
        (lambda m: m["size"].update(bytes=1e300), r"size\.bytes"),
        (lambda m: m["size"].update(bytes="12"), r"size\.bytes"),
        (lambda m: m["size"].update(bytes=True), r"size\.bytes"),
        (lambda m: m["trunk"]["model.norm.weight"].update(shape=[-48]), "shape"),
        (lambda m: m["trunk"]["model.norm.weight"].update(shape=48), "shape"),
        (lambda m: m["trunk"]["model.norm.weight"].update(offset=None), "offset"),
        (lambda m: m["experts"][0]["experts"][0]["projections"].update(side={}), "side"),
        (lambda m: m["files"]["tokenizer.json"].update(sha256="AB" * 32), "sha256"),
        (lambda m: m["files"]["tokenizer.json"].update(sha256="ab" * 31), "sha256"),
        (lambda m: m.update(artifact_hash=""), "artifact_hash"),
    ],
)
def test_wrong_types_are_named(data, change, place):
    with pytest.raises(ArtifactError, match=place):
        parse_manifest(edited(data, change), "m")
