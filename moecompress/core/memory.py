"""What this process uses and what the machine has, read from /proc (Linux). Limits of control groups: `cgroup`."""

from __future__ import annotations

import re
from pathlib import Path

from moecompress.core.cgroup import memory_groups

_STATUS = Path("/proc/self/status")
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


def anonymous_bytes() -> int:
    """The part of resident memory that no file stands behind, in bytes (RssAnon)."""
    return _status_bytes("RssAnon")


def available_bytes() -> int:
    """Memory the kernel can give without swapping, in bytes (MemAvailable)."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else _NO_LIMIT


def obtainable_bytes() -> int:
    """The most this process could hold: what it has, and what the machine and every control group could still give."""
    rooms = [available_bytes(), *[group.room for group in memory_groups()]]
    return anonymous_bytes() + min(rooms)
