#!/usr/bin/env python3
"""`kill -9` at random moments of a run, then the same command to the end: is it the same artifact?

    evals/resume.py --model DIR --recipe recipes/methods/gptq.yaml --kills 5

The statistics of the uninterrupted run are not shared with the killed ones, so collection is interrupted too.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from moecompress.artifact.reader import read_manifest


def main() -> int:
    """0 when the hash after the kills equals the uninterrupted run's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--recipe", default="recipes/methods/gptq.yaml")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="resume-"))
    try:
        start = time.monotonic()
        run(options, folder / "whole", folder / "cache-whole").wait()
        seconds = time.monotonic() - start
        moments = kill_repeatedly(options, folder, seconds)
        if not (folder / "killed").exists():
            run(options, folder / "killed", folder / "cache-killed").wait()
        hashes = [read_manifest(folder / name).artifact_hash for name in ("whole", "killed")]
    finally:
        shutil.rmtree(folder)
    print(json.dumps({"seconds": round(seconds, 1), "killed_after_s": moments, "hashes": hashes}, indent=1))
    return 0 if hashes[0] == hashes[1] else 1


def run(options: argparse.Namespace, out: Path, cache: Path) -> subprocess.Popen[str]:
    """The command, started."""
    command = [sys.executable, "-m", "moecompress.cli.main", "run", options.recipe, "--model", options.model]
    command += ["--out", str(out), "--cache", str(cache)]
    for override in options.overrides:
        command += ["--set", override]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


def kill_repeatedly(options: argparse.Namespace, folder: Path, seconds: float) -> list[float]:
    """Start the command `kills` times and kill it at a random moment; a run that ended before does not count."""
    generator, moments = random.Random(options.seed), []
    for _ in range(options.kills):
        process = run(options, folder / "killed", folder / "cache-killed")
        moment = generator.uniform(0.15, 0.35) * seconds
        try:
            process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(round(moment, 1))
    return moments


if __name__ == "__main__":
    sys.exit(main())
