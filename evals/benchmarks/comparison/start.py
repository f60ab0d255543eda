"""Start-up of the tiny artifact, by `startup.py`: seconds to the first token, resident memory before any weight."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from comparison.workspace import HERE, Workspace

RECIPE = {"version": 1, "passes": [{"quantize.experts": {"method": "rtn", "bits": 4, "group_size": 64}}]}


def measure(work: Workspace) -> dict[str, Any]:
    """Medians over fresh processes. Raises RuntimeError when torch was imported."""
    command = [work.own, str(HERE.parent / "startup.py"), "--artifact", str(tiny_artifact(work)), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    if "torch" in figures["imported"]:
        raise RuntimeError("The engine imported torch; it must run without.")
    return figures


def tiny_artifact(work: Workspace) -> Path:
    """The embedded default model with 4-bit experts."""
    out = work.folder / "tiny"
    if not out.is_dir():
        compress("builtin", RECIPE, out)
    return out


def compress(model: str, recipe: dict[str, Any], out: Path) -> None:
    """Make an artifact by the ordinary command."""
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "moecompress.cli.main", "run", str(file), "--model", model, "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
