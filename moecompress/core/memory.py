"""What this process uses and what the machine allows, read from /proc and the memory cgroup (Linux)."""

from __future__ import annotations

import re
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CGROUP_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
_NO_LIMIT = 1 << 60


def _status_bytes(key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no line {key}.")
    return int(match.group(1)) * 1024


def rss_bytes() -> int:
    """Resident memory of this process now, in bytes (VmRSS)."""
    return _status_bytes("VmRSS")


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, in bytes (VmHWM)."""
    return _status_bytes("VmHWM")


def available_bytes() -> int:
    """Memory the kernel can give without swapping, in bytes (MemAvailable)."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else _NO_LIMIT


def _cgroup_folders() -> list[Path]:
    folders = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = Path("/sys/fs/cgroup")
        elif "memory" in controllers.split(","):
            root = Path("/sys/fs/cgroup/memory")
        else:
            continue
        folder = root / path.lstrip("/")
        folders += [folder, *[parent for parent in folder.parents if parent.is_relative_to(root)]]
    return folders


def cgroup_limit_bytes() -> int | None:
    """The tightest memory limit of this process's cgroup and its ancestors, or None when there is none."""
    limits = []
    for folder in _cgroup_folders():
        for name in _CGROUP_LIMITS:
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                continue
            if text.isdigit() and int(text) < _NO_LIMIT:
                limits.append(int(text))
    return min(limits, default=None)
