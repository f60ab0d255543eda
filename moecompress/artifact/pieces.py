"""Finished parts of an artifact that wait in a work folder until it is sealed.

A piece is a data file and a note beside it: its size, hash and table. The note is written last and removed first, so a
piece exists whole or not at all, whenever the process is killed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecompress.artifact.manifest import ExpertLayer, StoredFile, StoredTensor
from moecompress.artifact.writing import sync_folder, write_file
from moecompress.codecs.base import CodecSpec
from moecompress.codecs.table import parse_spec
from moecompress.core import values
from moecompress.core.errors import ArtifactError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The note of a piece: either `trunk` tensors or the `experts` of one layer, in the file as written."""

    file: StoredFile
    codecs: dict[str, dict[str, Any]]
    trunk: dict[str, StoredTensor] | None = None
    experts: ExpertLayer | None = None

    def specs(self) -> dict[str, CodecSpec]:
        """Codec key → spec of the codecs the piece uses."""
        return {key: parse_spec(value) for key, value in self.codecs.items()}


class PieceFolder:
    """The pieces in one folder, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def data(self, name: str) -> Path:
        """Where the data of a piece is. Raises ArtifactError for a name with anything but a-z, 0-9, '_', '-'."""
        if not _NAME.fullmatch(name):
            raise ArtifactError(f"A piece cannot be named {name!r}: use a-z, 0-9, '_' and '-', at most 64 characters.")
        return self._folder / f"{name}.safetensors"

    def has(self, name: str) -> bool:
        """Whether the piece is whole: its note is there and its data has the noted size."""
        data, note = self.data(name), self._note(name)
        return note.is_file() and data.is_file() and data.stat().st_size == self.read(name).file.bytes

    def forget(self, name: str) -> None:
        """From now on the piece does not exist, until it is noted again."""
        note = self._note(name)
        if note.exists():
            note.unlink()
            sync_folder(self._folder)

    def note(self, name: str, piece: Piece) -> None:
        """Declare the piece, whose data is on disk, finished."""
        write_file(self._note(name), json.dumps(values.plain(piece)).encode())

    def read(self, name: str) -> Piece:
        """The note of a piece. Raises ArtifactError when it is not one."""
        note = self._note(name)
        try:
            return values.read(Piece, json.loads(note.read_bytes()))
        except ValueError as error:
            raise ArtifactError(f"{note} is not the note of a finished piece; delete the work folder.") from error

    def names(self) -> list[str]:
        """Every finished piece, sorted. Raises ArtifactError when the data of one is gone or cut."""
        names = sorted(path.name.removesuffix(".note.json") for path in self._folder.glob("*.note.json"))
        for name in names:
            if not self.has(name):
                raise ArtifactError(
                    f"{self.data(name)} is missing or cut short; delete {self._note(name)} and run again."
                )
        return names

    def _note(self, name: str) -> Path:
        return self._folder / f"{name}.note.json"
