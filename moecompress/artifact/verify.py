"""Every byte of an artifact held against its manifest: hashes of files, safetensors headers, expert records."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

from moecompress.artifact.checks import check_size, is_weight_file
from moecompress.artifact.container import LINE, Span, aligned, read_header
from moecompress.artifact.files import ArtifactFolder, OpenFile
from moecompress.artifact.manifest import MANIFEST, PRIORS, README, ExpertLayer, Manifest
from moecompress.artifact.priors import read_priors
from moecompress.artifact.reader import open_checked
from moecompress.artifact.records import HEADER, check_payload, check_record_header, payload_bytes
from moecompress.core.errors import ArtifactError, IntegrityError

OnBytes = Callable[[int], None]
Update = Callable[[bytearray], None]


def verify(folder: Path, on_bytes: OnBytes | None = None) -> None:
    """Raise IntegrityError or ArtifactError, naming the file, unless every byte is what the manifest promises.

    `on_bytes` is told the size of each block read; together that is the sum of `manifest.files`. Files that the
    manifest does not list are an error too, except hidden ones (a leading dot).
    """
    with ArtifactFolder(folder) as opened:
        manifest, files = open_checked(opened)
        try:
            _check_unlisted(manifest, opened)
            files[README] = opened.open(README)
            check_size(files[README], manifest)
            for name in sorted(files):
                _check_file(manifest, files[name], on_bytes or (lambda count: None))
        finally:
            for file in files.values():
                file.close()


def _check_unlisted(manifest: Manifest, folder: ArtifactFolder) -> None:
    for name in folder.names():
        if name not in manifest.files and name != MANIFEST and not name.startswith("."):
            raise ArtifactError(f"{folder.path / name} is not listed in the manifest. Move it out of the artifact.")


def _check_file(manifest: Manifest, file: OpenFile, on_bytes: OnBytes) -> None:
    layers = [layer for layer in manifest.experts if layer.file == file.name]
    if is_weight_file(file.name):
        _check_tables(read_header(file), _expected(manifest, layers), str(file.path))
    elif file.name == PRIORS:
        read_priors(file, [len(layer.experts) for layer in manifest.experts])
    digest = hashlib.sha256()
    position = 0
    for layer in layers:
        for index, record in enumerate(layer.experts):
            _digest(file, position, record.offset + HEADER.size, on_bytes, digest.update)
            position = _check_record(file, layer, index, on_bytes, digest.update)
    _digest(file, position, file.size, on_bytes, digest.update)
    expected = manifest.files[file.name].sha256
    if digest.hexdigest() != expected:
        raise IntegrityError(
            f"{file.path} is damaged: its sha256 is {digest.hexdigest()}, the manifest promises {expected}. "
            "Copy the artifact again."
        )


def _expected(manifest: Manifest, layers: list[ExpertLayer]) -> dict[str, Span]:
    """Tensor name → bytes that the safetensors header of a weight file must give: of `layers`, or of the trunk."""
    if not layers:
        return {name: Span(tensor.offset, aligned(tensor.bytes, LINE)) for name, tensor in manifest.trunk.items()}
    return {
        f"layers.{layer.layer}.experts.{index}": Span(record.offset, record.bytes)
        for layer in layers
        for index, record in enumerate(layer.experts)
    }


def _check_tables(spans: dict[str, Span], expected: dict[str, Span], where: str) -> None:
    if spans != expected:
        name = sorted(name for name in spans.keys() | expected.keys() if spans.get(name) != expected.get(name))[0]
        raise ArtifactError(
            f"{where}: tensor {name!r} is {spans.get(name)} in the safetensors header, "
            f"but {expected.get(name)} in the manifest."
        )


def _check_record(file: OpenFile, layer: ExpertLayer, index: int, on_bytes: OnBytes, update: Update) -> int:
    """Header and payload of one record; returns where the payload ends."""
    record, where = layer.experts[index], str(file.path)
    header = file.read(record.offset, HEADER.size)
    expected = check_record_header(header, layer.layer, index, record, where)
    crc32 = 0

    def both(block: bytearray) -> None:
        nonlocal crc32
        crc32 = zlib.crc32(block, crc32)
        update(block)

    start = record.offset + HEADER.size
    end = start + payload_bytes(record)
    _digest(file, start, end, on_bytes, both)
    check_payload(crc32, expected, layer.layer, index, where)
    return end


def _digest(file: OpenFile, start: int, end: int, on_bytes: OnBytes, update: Update) -> None:
    for block in file.blocks(start, end):
        update(block)
        on_bytes(len(block))
