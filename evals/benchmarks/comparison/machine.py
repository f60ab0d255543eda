"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import moecompress


def describe() -> dict[str, Any]:
    """Processor, cores, instruction sets that matter here, memory, kernel, and the commit of the code."""
    info = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*: (.+)$", info, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.+)$", info, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    wanted = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
    return {
        "processor": name.group(1) if name else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_sets": [flag for flag in wanted if flag in present],
        "memory_bytes": int(memory.group(1)) << 10 if memory else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit(),
        "load_before": os.getloadavg()[0],
    }


def commit() -> str | None:
    """The commit of the working tree, with `+` when it has changes; None outside a repository."""
    root = Path(moecompress.__file__).parents[1]
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
