"""Limits set for a time: a memory control group, the disk's read-ahead, an empty page cache. They need root."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


class LimitsError(Exception):
    """The machine does not let this process set a limit; the message says which."""


class MemoryGroup:
    """A control group that charges its processes' memory and page cache against a limit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def oom_kills(self) -> int:
        """Processes of the group that the kernel killed for memory."""
        for name in ("memory.oom_control", "memory.events"):
            file = self.path / name
            found = re.search(r"^oom_kill (\d+)", file.read_text(), re.MULTILINE) if file.is_file() else None
            if found:
                return int(found.group(1))
        return 0


@contextmanager
def memory_group(limit: int, root: Path = CGROUP) -> Iterator[MemoryGroup]:
    """A new group of at most `limit` bytes, removed afterwards. Raises LimitsError where none can be made."""
    first = (root / "memory").is_dir()
    path = (root / "memory" if first else root) / f"moecompress-{os.getpid()}"
    try:
        path.mkdir(exist_ok=True)
        (path / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
    except OSError as error:
        raise LimitsError(
            f"A memory control group of {limit} bytes cannot be made at {path}: {error.strerror}. Capped runs need "
            "root and the memory controller; leave them out with --only."
        ) from error
    try:
        yield MemoryGroup(path)
    finally:
        path.rmdir()


@contextmanager
def read_ahead(file: Path, kibibytes: int) -> Iterator[None]:
    """The read-ahead of the disk that holds `file`, set for a time. Raises LimitsError where it cannot be set."""
    setting = read_ahead_setting(file)
    before = setting.read_text()
    try:
        setting.write_text(str(kibibytes))
    except OSError as error:
        raise LimitsError(f"{setting} cannot be written: {error.strerror}. Capped runs need root.") from error
    try:
        yield
    finally:
        setting.write_text(before)


def read_ahead_setting(file: Path) -> Path:
    """Where the kernel keeps the read-ahead, in KiB, of the disk below a file. LimitsError when there is none."""
    device = file.stat().st_dev
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    for place in (folder, folder.parent):  # a partition has the queue of its disk
        setting = place / "queue" / "read_ahead_kb"
        if setting.is_file():
            return setting
    raise LimitsError(f"{file} lies on no disk with a read-ahead setting (device {device:#x}); use another --work.")


def drop_caches() -> None:
    """Empty the page cache of the machine. Raises LimitsError where that is not allowed."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError as error:
        raise LimitsError(f"{DROP_CACHES} cannot be written: {error.strerror}. Capped runs need root.") from error
