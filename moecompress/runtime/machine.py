"""What this machine can do for the engine: how fast it reads memory."""

from __future__ import annotations

from moecompress.core.apart import apart

_BYTES = 256 << 20  # many times the last cache
_PASSES = 5
_READ_SPEEDS = """
from moecompress.runtime import _native
print(json.dumps(_native.read_speeds(*given)))
"""


def read_speed(threads: int) -> float:
    """Bytes a second at which so many threads read memory: median of a few readings, in a process of its own."""
    speeds = sorted(apart(_READ_SPEEDS, _BYTES, threads, _PASSES))
    return float(speeds[len(speeds) // 2])
