"""A memory control group of version 1 for one process, where the test runs as root and the machine has them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True)
class ControlGroup:
    """A group of its own below the root, with a limit that nothing but its processes is charged to."""

    folder: Path

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs `arguments` inside the group from its first instruction on."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh", *arguments]

    @property
    def kills(self) -> int:
        """Processes that the kernel killed for memory."""
        rows = dict(line.split() for line in (self.folder / "memory.oom_control").read_text().splitlines())
        return int(rows.get("oom_kill", 0))

    @property
    def peak(self) -> int:
        """The most that was charged to the group, page cache included."""
        return int((self.folder / "memory.max_usage_in_bytes").read_text())


@contextmanager
def memory_group(limit: int) -> Iterator[ControlGroup | None]:
    """A group with a limit in bytes, removed afterwards; None where none can be made."""
    folder = _ROOT / f"moecompress-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        yield None
        return
    try:
        yield ControlGroup(folder)
    finally:
        folder.rmdir()
