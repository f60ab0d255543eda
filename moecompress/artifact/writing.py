"""Writing that leaves either the whole file or folder, or nothing: temporary name, fsync, one rename.

A full disk, a missing permission or an exception of the caller removes what was begun; a kill leaves only the temporary
name, which the next attempt replaces.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from moecompress.artifact.manifest import StoredFile
from moecompress.codecs.base import Bytes
from moecompress.core.errors import ArtifactError, UsageError
from moecompress.core.units import format_size

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 1 << 20


class HashedFile:
    """A new file whose sha256 is taken while it is written. Closing it makes the bytes durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self.position = 0
        with _naming(path, 0):
            self._descriptor = os.open(path, _FLAGS, 0o666)

    def write(self, data: bytes | bytearray | Bytes) -> None:
        """Append. Raises ArtifactError with the cause, for example a full disk."""
        view = memoryview(data if isinstance(data, bytes | bytearray) else data.data).cast("B")
        self._digest.update(view)
        with _naming(self._path, self.position):
            while view:
                count = os.write(self._descriptor, view)
                self.position += count
                view = view[count:]

    def pad_to(self, position: int) -> None:
        """Append zeros up to `position`."""
        self.write(bytes(position - self.position))

    def copy(self, source: Path, offset: int = 0, length: int | None = None) -> None:
        """Append `length` bytes of `source` from `offset` on, or all that follow. ArtifactError when it has fewer."""
        left = source.stat().st_size - offset if length is None else length
        with source.open("rb") as file:
            file.seek(offset)
            while left:
                block = file.read(min(left, _BLOCK))
                if not block:
                    raise ArtifactError(f"{source} ends {left} bytes too early; make it again.")
                self.write(block)
                left -= len(block)

    def stored(self) -> StoredFile:
        """Size and hash of what was written so far."""
        return StoredFile(bytes=self.position, sha256=self._digest.hexdigest())

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with _naming(self._path, self.position):
                    os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[HashedFile]:
    """A file that appears under its name, replacing another, when the block ends without an exception."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with HashedFile(partial) as file:
            yield file
        with _naming(path, file.position):
            partial.replace(path)
            sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes) -> StoredFile:
    """Write a whole small file atomically."""
    with new_file(path) as file:
        file.write(data)
    return file.stored()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends without an exception."""
    refuse_existing(out)
    partial = out.with_name(f".{out.name}.partial")
    try:
        with _naming(out, 0):
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        yield partial
        refuse_existing(out)
        with _naming(out, 0):
            sync_folder(partial)
            partial.rename(out)
            sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def refuse_existing(out: Path) -> None:
    """Raise UsageError when something is already at `out`."""
    if os.path.lexists(out):
        raise UsageError(f"{out} exists. An artifact is written to a new folder; remove it or choose another name.")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path, position: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path} could not be written after {format_size(position)}: {error.strerror}. "
            "Nothing was left half-written; make room or choose another place, then run the same command again."
        ) from error
