"""Artifacts made wrong on purpose, with hashes that fit: each is refused with an ArtifactError that names the cause."""

import copy
import json
import os
import random
import shutil
import zlib

import pytest

from moecompress.artifact.container import build_header
from moecompress.artifact.files import artifact_bytes
from moecompress.artifact.manifest import MANIFEST, MAX_MANIFEST
from moecompress.artifact.reader import ArtifactReader, read_manifest
from moecompress.artifact.verify import verify
from moecompress.core.errors import ArtifactError, IntegrityError
from moecompress.core.hashing import sha256_file
from moecompress.testing.artifacts import random_artifact, rewrite_manifest

BOUNDARIES = [0, 1, -1, 63, 64, 4095, 4096, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]
OTHERS = [None, True, 1.5, 1e308, "", "x", "../x", [], {}, [[]], {"a": 1}]


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("malformed")
    random_artifact(root / "work", root / "sound")
    return root / "sound"


@pytest.fixture
def artifact(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "artifact")


def expert(plain, index=0, layer=0):
    return plain["experts"][layer]["experts"][index]


def norm(plain):
    return plain["trunk"]["model.norm.weight"]


def test_rewriting_without_a_change_stays_sound(artifact):
    rewrite_manifest(artifact, lambda plain: None)
    verify(artifact)


def test_newer_format_version(artifact):
    path = artifact / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"format_version": 1', b'"format_version": 2'))
    for check in (read_manifest, verify, ArtifactReader):
        with pytest.raises(ArtifactError, match="format_version 2; this moecompress reads version 1"):
            check(artifact)


def test_edited_manifest(artifact):
    path = artifact / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"rms_norm_eps":1e-05', b'"rms_norm_eps":1e-06'))
    with pytest.raises(IntegrityError, match=r"manifest.json was changed after it was written"):
        read_manifest(artifact)


def test_edited_evaluation(artifact):
    path = artifact / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"evaluation": null', b'"evaluation": {}  '))
    with pytest.raises(IntegrityError, match=r"manifest.json was changed"):
        read_manifest(artifact)


def test_duplicate_keys(artifact):
    path = artifact / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"seed":7', b'"seed":7,"seed":7'))
    with pytest.raises(ArtifactError, match="'seed' appears twice"):
        read_manifest(artifact)


def test_deep_nesting(artifact):
    path = artifact / MANIFEST
    deep = b'"config":{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"},"
    path.write_bytes(path.read_bytes().replace(b'"config":', deep + b'"unused":'))
    with pytest.raises(ArtifactError, match="nested deeper"):
        read_manifest(artifact)


def test_huge_manifest_is_not_read(artifact):
    os.truncate(artifact / MANIFEST, MAX_MANIFEST + 1)
    with pytest.raises(ArtifactError, match="at most 67108864 are allowed"):
        read_manifest(artifact)


def test_lone_surrogates(artifact):
    path = artifact / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"seed":7', b'"seed":7,"\\ud800":1').replace(b"mixtral", b"\\udfff"))
    with pytest.raises(ArtifactError, match=r"manifest.json"):
        read_manifest(artifact)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"{}", b"[1]", b"null", b"\x80\x04K\x01."])
def test_manifest_that_is_none(artifact, data):
    (artifact / MANIFEST).write_bytes(data)
    with pytest.raises(ArtifactError, match=r"manifest.json"):
        read_manifest(artifact)


@pytest.mark.parametrize("name", ["trunk.safetensors", "experts-00001.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("cut", [1, 4096])
def test_truncated_file(artifact, name, cut):
    path = artifact / name
    os.truncate(path, max(0, path.stat().st_size - cut))
    with pytest.raises(IntegrityError, match=f"{name} has .* bytes, the manifest promises"):
        read_manifest(artifact)


@pytest.mark.parametrize("name", ["trunk.safetensors", "experts-00000.safetensors", "tokenizer.json", MANIFEST])
def test_missing_file(artifact, name):
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} cannot be opened"):
        read_manifest(artifact)


def test_grown_file(artifact):
    with (artifact / "trunk.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(IntegrityError, match="the manifest promises"):
        read_manifest(artifact)


@pytest.mark.parametrize("name", ["trunk.safetensors", MANIFEST, "README.md", "experts-00000.safetensors"])
def test_symbolic_link_in_place_of_a_file(artifact, tmp_path, name):
    (artifact / name).rename(tmp_path / "elsewhere")
    (artifact / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=name):
        read_manifest(artifact)


def test_symbolic_link_beside_the_files(artifact):
    (artifact / "extra").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="extra is a symbolic link"):
        read_manifest(artifact)


def test_fifo_and_folder_in_place_of_a_file(artifact):
    path = artifact / "tokenizer.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match=r"tokenizer.json is not a regular file"):
        read_manifest(artifact)
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match=r"tokenizer.json is not a regular file"):
        read_manifest(artifact)


def test_no_folder_at_all(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(ArtifactError, match="is not a folder that can be read"):
            read_manifest(path)


BAD_NAMES = [
    "../secret.json",
    "/etc/passwd",
    "a/b.json",
    "..",
    ".",
    "",
    "a..json",
    ".hidden.json",
    "x.bin",
    "x.pkl",
    "a\0.json",
]


@pytest.mark.parametrize(
    "name", [*BAD_NAMES, "manifest.json", "x" * 200 + ".json", "experts-00009.safetensors", "é.json"]
)
def test_file_names(artifact, name):
    rewrite_manifest(artifact, lambda plain: plain["files"].update({name: plain["files"]["tokenizer.json"]}))
    with pytest.raises(ArtifactError, match="cannot hold a file named"):
        read_manifest(artifact)


@pytest.mark.parametrize(
    "name", ["../experts-00000.safetensors", "/experts-00000.safetensors", "experts-0.safetensors", "x"]
)
def test_expert_file_names(artifact, name):
    def edit(plain):
        plain["experts"][0]["file"] = name
        plain["files"][name] = plain["files"].pop("experts-00000.safetensors")

    rewrite_manifest(artifact, edit)
    with pytest.raises(ArtifactError, match="the experts of layer 0 cannot be in"):
        read_manifest(artifact)


def two_layers_in_one_file(plain):
    plain["experts"].append(copy.deepcopy(plain["experts"][1]))


def experts_without_down(plain):
    del expert(plain)["projections"]["down"]


def swapped_shapes(plain):
    down = expert(plain)["projections"]["down"]
    down["shape"] = [40, 48]


def other_hidden_size(plain):
    for tensor in expert(plain)["projections"].values():
        tensor["shape"] = [size - 1 if size == 48 else size for size in tensor["shape"]]


EDITS = {
    "trunk offset off the line": (lambda m: norm(m).update(offset=norm(m)["offset"] + 4), "not a multiple of 64"),
    "trunk overlap": (lambda m: norm(m).update(offset=4096), "overlaps"),
    "trunk in the header": (lambda m: norm(m).update(offset=0), "overlaps the header"),
    "trunk past the end": (lambda m: norm(m).update(offset=2**40), "there are only"),
    "trunk at the largest offset": (lambda m: norm(m).update(offset=2**63 - 64), "there are only"),
    "trunk bytes": (lambda m: norm(m).update(bytes=100), "densef32 gives 192"),
    "trunk shape": (lambda m: norm(m).update(shape=[49]), "densef32 gives 196"),
    "trunk shape zero": (lambda m: norm(m).update(shape=[0]), "every size must be at least 1"),
    "trunk shape huge": (lambda m: norm(m).update(shape=[2**62, 2**62]), "has 192 bytes"),
    "trunk shape long": (lambda m: norm(m).update(shape=[1] * 9), "dimensions"),
    "trunk codec unlisted": (lambda m: norm(m).update(codec="affine9g64"), "which `codecs` does not list"),
    "trunk name": (lambda m: m["trunk"].update({"a\n": norm(m)}), "cannot be a tensor's name"),
    "trunk name reserved": (lambda m: m["trunk"].update({"__metadata__": norm(m)}), "cannot be a tensor's name"),
    "trunk empty of weights": (lambda m: (m["trunk"].clear(), m["experts"].clear()), "cannot hold a file|no weights"),
    "codec unknown": (lambda m: m["codecs"]["densef32"].update(codec="dens"), "Unknown codec 'dens'. Did you mean"),
    "codec parameters": (lambda m: m["codecs"]["affine1g32"].update(bits=9), "Bad parameter 'bits'"),
    "codec of another key": (lambda m: m["codecs"]["affine1g32"].update(bits=2), "has the parameters of 'affine2g32'"),
    "record off the page": (lambda m: expert(m).update(offset=4096 + 64), "not on multiples of 4096"),
    "record length off the page": (lambda m: expert(m).update(bytes=4160), "not on multiples of 4096"),
    "record of no length": (lambda m: expert(m).update(bytes=0), "not on multiples of 4096"),
    "records overlap": (lambda m: expert(m, 1).update(offset=4096), "overlaps"),
    "record in the header": (lambda m: expert(m).update(offset=0), "overlaps the header"),
    "record past the end": (lambda m: expert(m, 2).update(offset=4096 * 100), "there are only 32768 bytes"),
    "record too long": (lambda m: expert(m, 2).update(bytes=2**62), "there are only 32768 bytes"),
    "record too short": (lambda m: expert(m, 1).update(bytes=4096), "there are only 4096 bytes"),
    "matrix off the line": (lambda m: expert(m)["projections"]["up"].update(offset=833), "not a multiple of 64"),
    "matrices overlap": (lambda m: expert(m)["projections"]["up"].update(offset=64), "overlaps"),
    "matrix in the header": (lambda m: expert(m)["projections"]["gate"].update(offset=0), "overlaps the header"),
    "matrix past the record": (lambda m: expert(m)["projections"]["down"].update(offset=3904), "only 4096 bytes"),
    "matrix bytes": (lambda m: expert(m)["projections"]["up"].update(bytes=769), "affine1g32 gives 768"),
    "matrix codec": (lambda m: expert(m)["projections"]["up"].update(codec="affine4g32"), "affine4g32 gives 1920"),
    "matrix of three dimensions": (
        lambda m: expert(m, 2)["projections"]["up"].update(shape=[48, 48, 1]),
        "bytes|matrix",
    ),
    "matrix of another shape": (swapped_shapes, r"down: shape \[40, 48\], expected \[48, 40\]"),
    "hidden sizes disagree": (other_hidden_size, "disagree about the hidden size"),
    "no down": (experts_without_down, "expected gate, up and down, or up and down"),
    "layer twice": (two_layers_in_one_file, "ascending order, each once"),
    "layers not in order": (lambda m: m["experts"].reverse(), "ascending order, each once"),
    "layer of another file": (lambda m: m["experts"][1].update(layer=7), "experts of layer 7 cannot be in"),
    "expert file unused": (lambda m: m["experts"].pop(), "cannot hold a file named 'experts-00001"),
    "trunk file unlisted": (lambda m: m["files"].pop("trunk.safetensors"), "lacks 'trunk.safetensors'"),
    "card unlisted": (lambda m: m["files"].pop("README.md"), "lacks 'README.md'"),
    "file of another size": (lambda m: m["files"]["tokenizer.json"].update(bytes=19), "the manifest promises 19"),
    "weight bytes": (lambda m: m["size"].update(weight_bytes=1), "size says 1 bytes of weights"),
    "parameters": (lambda m: m["size"].update(parameters=0), "0 parameters"),
    "bits per weight": (lambda m: m["size"].update(bits_per_weight=2.0), "2.0 bits a weight"),
}


@pytest.mark.parametrize("name", EDITS)
def test_tables(artifact, name):
    edit, message = EDITS[name]
    rewrite_manifest(artifact, edit)
    with pytest.raises(ArtifactError, match=message):
        read_manifest(artifact)


def test_total_bytes(artifact):
    rewrite_manifest(artifact, lambda plain: plain["size"].update(bytes=5), totals=False)
    with pytest.raises(ArtifactError, match=r"size.bytes is 5, the files add up to"):
        read_manifest(artifact)


def rehash(artifact, name):
    entry = {"bytes": (artifact / name).stat().st_size, "sha256": sha256_file(artifact / name)}
    rewrite_manifest(artifact, lambda plain: plain["files"].update({name: entry}))


def swap_records(artifact):
    """Exchange experts 1 of both layers, which are of equal length, and make all hashes fit."""
    files = [artifact / f"experts-0000{layer}.safetensors" for layer in (0, 1)]
    data = [bytearray(path.read_bytes()) for path in files]
    data[0][8192:16384], data[1][8192:16384] = data[1][8192:16384], data[0][8192:16384]
    for path, changed in zip(files, data, strict=True):
        path.write_bytes(changed)
        rehash(artifact, path.name)


def test_record_of_another_expert(artifact):
    swap_records(artifact)
    read_manifest(artifact)
    with pytest.raises(IntegrityError, match="should be expert 1 of layer 0, but its header says"):
        verify(artifact)
    with ArtifactReader(artifact) as reader, pytest.raises(IntegrityError, match="should be expert 1 of layer 1"):
        reader.expert(1, 1)


def test_payload_that_is_not_its_crc(artifact):
    path = artifact / "experts-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[8192 + 64] ^= 1
    path.write_bytes(data)
    rehash(artifact, path.name)
    for check in (verify, lambda folder: ArtifactReader(folder).expert(0, 1)):
        with pytest.raises(IntegrityError, match="expert 1 of layer 0 are damaged: crc32"):
            check(artifact)


def test_record_with_a_crc_of_its_own_choice_is_still_the_hash_s_business(artifact):
    path = artifact / "experts-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[8192 + 64] ^= 1
    length = int.from_bytes(data[8192 + 16 : 8192 + 24], "little")
    data[8192 + 24 : 8192 + 28] = zlib.crc32(data[8192 + 64 : 8192 + 64 + length]).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"experts-00000.safetensors is damaged: its sha256"):
        verify(artifact)


def test_safetensors_header_that_disagrees_with_the_table(artifact):
    path = artifact / "experts-00000.safetensors"
    data = path.read_bytes()
    lengths = [("layers.0.experts.0", 8192), ("layers.0.experts.1", 4096), ("layers.0.experts.2", 16384)]
    path.write_bytes(build_header(lengths) + data[4096:])
    rehash(artifact, path.name)
    with pytest.raises(ArtifactError, match=r"tensor 'layers.0.experts.0' is .* in the safetensors header"):
        verify(artifact)


def test_extra_bytes_behind_the_last_record(artifact):
    path = artifact / "experts-00000.safetensors"
    path.write_bytes(path.read_bytes() + bytes(4096))
    entry = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}

    def edit(plain):
        plain["files"][path.name] = entry
        size = plain["size"]
        size["weight_bytes"] += 4096
        size["bits_per_weight"] = 8 * size["weight_bytes"] / size["parameters"]

    rewrite_manifest(artifact, edit)
    read_manifest(artifact)
    with pytest.raises(ArtifactError, match="has 36864 bytes, but its tensors end at byte 32768"):
        verify(artifact)


def places(value, path=()):
    """Every place of a JSON value, as a path of keys."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def mutate(plain, path, generator):
    """Replace, remove, or exchange with another place's value."""
    parent = plain
    for key in path[:-1]:
        parent = parent[key]
    kind = generator.randrange(4)
    if kind == 0 and isinstance(parent, dict):
        del parent[path[-1]]
    elif kind == 1:
        old = parent[path[-1]]
        parent[path[-1]] = old + generator.choice([-4096, -64, -1, 1, 64, 4096]) if type(old) is int else "y"
    else:
        parent[path[-1]] = generator.choice(BOUNDARIES if kind == 2 else OTHERS)


def fuzz(artifact, seed, cases):
    """How many mutated manifests with fitting hashes are refused; anything but an ArtifactError comes through."""
    generator = random.Random(seed)
    original = (artifact / MANIFEST).read_text()
    all_places = [path for path in places(json.loads(original)) if path]
    refused = 0
    for _ in range(cases):
        (artifact / MANIFEST).write_text(original)
        path = generator.choice(all_places)
        try:
            rewrite_manifest(artifact, lambda plain, path=path: mutate(plain, path, generator))
        except ValueError:  # of a type that no manifest can have: written as it is
            plain = json.loads(original)
            mutate(plain, path, generator)
            (artifact / MANIFEST).write_text(json.dumps(plain))
        try:
            read_manifest(artifact)
            with ArtifactReader(artifact) as reader:
                reader.expert(1, 2)
                reader.trunk("model.norm.weight")
            verify(artifact)
        except ArtifactError:
            refused += 1
    return refused


def test_mutated_manifests(artifact):
    assert fuzz(artifact, seed=1, cases=300) > 200


@pytest.mark.slow
def test_ten_thousand_mutated_manifests(artifact):
    assert fuzz(artifact, seed=2, cases=10_000) > 7_000


def test_flipped_bits_anywhere_do_not_verify(artifact):
    generator = random.Random(3)
    files = sorted(artifact.iterdir())
    for _ in range(150):
        path = generator.choice(files)
        position, bit = generator.randrange(path.stat().st_size), generator.randrange(8)
        data = bytearray(path.read_bytes())
        data[position] ^= 1 << bit
        path.write_bytes(data)
        with pytest.raises(ArtifactError):
            verify(artifact)
        data[position] ^= 1 << bit
        path.write_bytes(data)
    verify(artifact)


@pytest.mark.parametrize("name", ["trunk.safetensors", "experts-00000.safetensors", MANIFEST, "README.md"])
def test_truncation_anywhere_does_not_verify(artifact, name):
    data = (artifact / name).read_bytes()
    for length in {0, 1, 8, len(data) // 2, len(data) - 1, *range(4096, len(data), 4096)}:
        (artifact / name).write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=name):
            verify(artifact)


def test_artifact_bytes_counts_what_is_there(artifact):
    before = artifact_bytes(artifact)
    (artifact / "README.md").write_bytes(b"")
    assert artifact_bytes(artifact) < before
