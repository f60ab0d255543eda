"""Files of an artifact, opened without trust: by plain name, relative to the open folder, never through a link.

Sizes come from the open descriptor and bound every read before memory is taken for it. A file that shrinks afterwards
gives a short read, which is an error, not wrong numbers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from moecompress.core.errors import ArtifactError, IntegrityError

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BLOCK = 1 << 20


class OpenFile:
    """A regular file held open; `size` is its length when it was opened."""

    def __init__(self, folder: Path, name: str, descriptor: int) -> None:
        self.path = folder / name
        self.name = name
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, offset: int, length: int) -> bytearray:
        """`length` bytes at `offset`, in new memory. ArtifactError outside the file, IntegrityError when it shrank."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ArtifactError(
                f"{self.path} has {self.size} bytes; bytes {offset} to {offset + length} are not in it. "
                "The file is truncated or the manifest is wrong."
            )
        out = bytearray(length)
        view = memoryview(out)
        done = 0
        while done < length:
            try:
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise ArtifactError(f"{self.path} cannot be read at byte {offset + done}: {error.strerror}.") from error
            if count == 0:
                raise IntegrityError(f"{self.path} became shorter while it was read: it had {self.size} bytes.")
            done += count
        return out

    def blocks(self, start: int, end: int) -> Iterator[bytearray]:
        """Bytes `start` to `end` in blocks of at most 1 MiB."""
        for offset in range(start, end, _BLOCK):
            yield self.read(offset, min(_BLOCK, end - offset))

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ArtifactFolder:
    """A folder held open. Every file is opened relative to it, so a renamed or swapped folder changes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactError(f"{path} is not a folder that can be read: {error.strerror}.") from error

    def names(self) -> list[str]:
        """Every entry, sorted. Raises ArtifactError when one is a symbolic link."""
        with os.scandir(self._descriptor) as entries:
            found = {entry.name: entry.is_symlink() for entry in entries}
        for name, is_link in sorted(found.items()):
            if is_link:
                raise ArtifactError(
                    f"{self.path / name} is a symbolic link. Artifacts hold regular files only; copy it."
                )
        return sorted(found)

    def open(self, name: str) -> OpenFile:
        """A regular file of the folder. Raises ArtifactError for a missing file, a link, a folder or a device."""
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=self._descriptor)
        except OSError as error:
            raise ArtifactError(f"{self.path / name} cannot be opened as a regular file: {error.strerror}.") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ArtifactError(f"{self.path / name} is not a regular file.")
        return OpenFile(self.path, name, descriptor)

    def close(self) -> None:
        """Give the descriptor back; files opened from the folder stay open."""
        os.close(self._descriptor)

    def __enter__(self) -> ArtifactFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def artifact_bytes(folder: Path) -> int:
    """Bytes on disk of everything in a folder: the sum of all file sizes, manifest and README.md included."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
