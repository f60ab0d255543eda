"""The expert kernels' share of the speed at which this machine reads memory, by `kernels.py`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from comparison.workspace import HERE, Workspace


def measure(work: Workspace) -> dict[str, Any]:
    """`share`: bits → share with all threads, decoding OLMoE-1B-7B's experts; and all that `kernels.py` found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernels.json"
        command = [work.own, str(HERE.parent / "kernels.py"), "--shapes", "2048x1024", "--bits", "8", "4", "3", "2"]
        command += ["--threads", str(work.threads), "--tokens", "--json", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text())
    return {"share": found["kernels"], **found}
