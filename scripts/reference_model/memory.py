"""Gives a finished task's memory back to the system, so that a worker's next task starts afresh."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def release() -> None:
    """Return freed memory, and start the peak anew, where the system is Linux with glibc; elsewhere do less."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text(RESET_PEAK)


def peak_mib() -> int:
    """The process's greatest resident memory since `release`, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
