"""Memory control groups, version 1 and 2: what limits this process, and how much of that is in use by anybody.

Mount points come from /proc/self/mountinfo, so containers and mixed hierarchies are read as the kernel sees them. Page
cache that can be dropped does not count as used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class MemoryGroup:
    """A control group with a limit. `used` is of all its processes and cannot be dropped."""

    folder: Path
    limit: int
    used: int

    @property
    def room(self) -> int:
        """Bytes that are left below the limit."""
        return max(0, self.limit - self.used)


def memory_groups(root: Path = Path("/")) -> list[MemoryGroup]:
    """The groups that limit this process: its own and their ancestors. `root` is where /proc and the mounts are."""
    found = [_READERS[version](folder) for folder, version in _folders(root)]
    return [group for group in found if group is not None]


def _folders(root: Path) -> Iterator[tuple[Path, int]]:
    """Every folder of a memory controller that this process is in, innermost first, and the hierarchy's version."""
    paths = _paths(root)
    for mount, inside, version in _mounts(root):
        if version in paths:
            below = Path("/", paths[version].removeprefix(inside.rstrip("/")).lstrip("/"))
            for path in (below, *below.parents):
                yield root / mount.lstrip("/") / str(path).lstrip("/"), version


def _paths(root: Path) -> dict[int, str]:
    """Version of the hierarchy → this process's path in it."""
    paths = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            paths[1] = path
        elif number == "0" and not controllers:
            paths[2] = path
    return paths


def _mounts(root: Path) -> Iterator[tuple[str, str, int]]:
    """(mount point, path inside the hierarchy that is mounted there, version) of hierarchies that may count memory."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        inside, mount = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            yield mount, inside, 2
        elif kind == "cgroup" and "memory" in options.split(","):
            yield mount, inside, 1


def _version_1(folder: Path) -> MemoryGroup | None:
    return _group(
        folder, ["memory.limit_in_bytes"], "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
    )


def _version_2(folder: Path) -> MemoryGroup | None:
    droppable = ("inactive_file", "active_file", "slab_reclaimable")
    return _group(folder, ["memory.max", "memory.high"], "memory.current", droppable)


_READERS = {1: _version_1, 2: _version_2}


def _group(folder: Path, limits: list[str], usage: str, droppable: tuple[str, ...]) -> MemoryGroup | None:
    limit = min(_number(folder / name) for name in limits)
    if limit >= _NO_LIMIT:
        return None
    rows = (line.split() for line in _text(folder / "memory.stat").splitlines())
    statistics = {row[0]: int(row[1]) for row in rows if len(row) == 2}
    used = _number(folder / usage, 0) - sum(statistics.get(name, 0) for name in droppable)
    return MemoryGroup(folder, limit, max(0, used))


def _number(path: Path, otherwise: int = _NO_LIMIT) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else otherwise


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
