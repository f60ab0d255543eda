"""Reads an artifact without trusting it. FORMAT.md §7 lists what is checked before any of its numbers is used."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from moecompress.artifact.checks import check_files, check_manifest
from moecompress.artifact.files import ArtifactFolder, OpenFile
from moecompress.artifact.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    PRIORS,
    TRUNK,
    Manifest,
    StoredExpert,
    check_hashes,
    parse_manifest,
)
from moecompress.artifact.priors import Priors, read_priors
from moecompress.artifact.records import HEADER, check_payload, check_record_header, payload_bytes
from moecompress.codecs.base import Bytes, EncodedWeight
from moecompress.codecs.table import codec_of
from moecompress.core.errors import ArtifactError, UsageError
from moecompress.core.types import Projection


def read_manifest(folder: Path) -> Manifest:
    """The manifest, held against the sizes of all files. Raises ArtifactError, or IntegrityError for changed files.

    File contents are not hashed; `verify` does that.
    """
    with ArtifactReader(folder) as reader:
        return reader.manifest


def open_checked(folder: ArtifactFolder) -> tuple[Manifest, dict[str, OpenFile]]:
    """The checked manifest and every file it lists, held open, except README.md."""
    with folder.open(MANIFEST) as file:
        if file.size > MAX_MANIFEST:
            raise ArtifactError(f"{file.path} has {file.size} bytes; at most {MAX_MANIFEST} are allowed.")
        data, where = bytes(file.read(0, file.size)), str(file.path)
    manifest = parse_manifest(data, where)
    check_manifest(manifest)
    check_hashes(manifest, data, where)
    return manifest, check_files(manifest, folder, len(data))


class ArtifactReader:
    """An artifact held open: its files stay the checked ones even when the folder is replaced meanwhile."""

    def __init__(self, folder: Path) -> None:
        with ArtifactFolder(folder) as opened:
            self.manifest, self._files = open_checked(opened)
        self._specs = self.manifest.specs()
        self._layers = {layer.layer: layer for layer in self.manifest.experts}
        self._folder = folder

    def trunk(self, name: str) -> EncodedWeight:
        """A tensor outside the experts, by its checkpoint name."""
        entry = self.manifest.trunk[self._known(name)]
        spec = self._specs[entry.codec]
        return codec_of(spec).unpack(self.packed_trunk(name), spec, entry.shape)

    def packed_trunk(self, name: str) -> Bytes:
        """Its bytes as the kernels read them."""
        entry = self.manifest.trunk[self._known(name)]
        return _array(self._files[TRUNK].read(entry.offset, entry.bytes))

    def expert(self, layer: int, expert: int) -> Mapping[Projection, EncodedWeight]:
        """The matrices of one expert. Raises IntegrityError when the record is another's or its crc32 is wrong."""
        entry, record = self._entry(layer, expert), self.packed_expert(layer, expert)
        weights: dict[Projection, EncodedWeight] = {}
        for name, tensor in entry.projections.items():
            spec = self._specs[tensor.codec]
            packed = record[tensor.offset : tensor.offset + tensor.bytes]
            weights[name] = codec_of(spec).unpack(packed, spec, tensor.shape)
        return weights

    def packed_expert(self, layer: int, expert: int) -> Bytes:
        """The whole record, header and crc32 checked."""
        entry, file = self._entry(layer, expert), self._files[self._layers[layer].file]
        record = file.read(entry.offset, entry.bytes)
        expected = check_record_header(record, layer, expert, entry, str(file.path))
        payload = memoryview(record)[HEADER.size : HEADER.size + payload_bytes(entry)]
        check_payload(zlib.crc32(payload), expected, layer, expert, str(file.path))
        return _array(record)

    def asset(self, name: str) -> bytes:
        """A tokenizer file or the like, whole. Raises UsageError when the artifact has none of that name."""
        if name not in self._files:
            raise UsageError(f"{self._folder} holds no {name!r}. It holds {', '.join(sorted(self._files))}.")
        file = self._files[name]
        return bytes(file.read(0, file.size))

    def priors(self) -> Priors | None:
        """Popularity and transition tables; None when the artifact was made without calibration."""
        if PRIORS not in self._files:
            return None
        return read_priors(self._files[PRIORS], [len(layer.experts) for layer in self.manifest.experts])

    def close(self) -> None:
        """Give all files back."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def __enter__(self) -> ArtifactReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _known(self, name: str) -> str:
        if name not in self.manifest.trunk:
            raise UsageError(f"{self._folder} has no trunk tensor {name!r}.")
        return name

    def _entry(self, layer: int, expert: int) -> StoredExpert:
        if layer not in self._layers:
            raise UsageError(
                f"{self._folder} has no experts in layer {layer}; layers with experts: {list(self._layers)}."
            )
        experts = self._layers[layer].experts
        if not 0 <= expert < len(experts):
            raise UsageError(f"{self._folder}: layer {layer} has experts 0 to {len(experts) - 1}, not {expert}.")
        return experts[expert]


def _array(data: bytearray) -> Bytes:
    import numpy as np  # for weights only: the engine opens artifacts without it

    return np.frombuffer(data, np.uint8)
