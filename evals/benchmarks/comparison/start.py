"""Start-up: from `import moecompress` to the tiny artifact's first token, and resident memory before any weight."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from comparison.workspace import Workspace

REPEATS = 7
RECIPE = {"version": 1, "passes": [{"quantize.experts": {"method": "rtn", "bits": 4, "group_size": 64}}]}

FIRST_TOKEN = """
import sys, time
launched, begun = float(sys.argv[2]), time.perf_counter()
from moecompress.runtime.engine import Engine
with Engine.open(sys.argv[1], threads=int(sys.argv[3])) as engine:
    next(iter(engine.generate("def main():", max_tokens=2)))
    first = time.perf_counter()
    import json
    values = {"import_s": first - begun, "process_s": first - launched, "rss": engine.plan.interpreter}
    print(json.dumps({**values, "torch": "torch" in sys.modules}))
"""


def measure(work: Workspace) -> dict[str, Any]:
    """Medians over seven processes, after one that warms the page cache. RuntimeError when torch was imported."""
    artifact, runs = tiny_artifact(work), []
    for _ in range(REPEATS + 1):
        runs.append(first_token(work, artifact))
    if any(run["torch"] for run in runs):
        raise RuntimeError("The engine imported torch; it must run without.")

    def median(key: str) -> float:
        return statistics.median(run[key] for run in runs[1:])

    return {
        "import_to_first_token_s": round(median("import_s"), 4),
        "process_to_first_token_s": round(median("process_s"), 4),
        "rss_before_weights_bytes": int(median("rss")),
    }


def first_token(work: Workspace, artifact: Path) -> dict[str, Any]:
    """One process."""
    command = [work.own, "-c", FIRST_TOKEN, str(artifact), repr(time.perf_counter()), str(work.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def tiny_artifact(work: Workspace) -> Path:
    """The embedded default model with 4-bit experts."""
    out = work.folder / "tiny"
    if not out.is_dir():
        work.folder.mkdir(parents=True, exist_ok=True)
        recipe = work.folder / "tiny.yaml"
        recipe.write_text(json.dumps(RECIPE))
        command = [sys.executable, "-m", "moecompress.cli.main", "run", str(recipe), "--model", "builtin"]
        subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return out
