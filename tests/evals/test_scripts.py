"""Every evaluation and benchmark script at least starts: what it imports is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import moecompress

EVALS = Path(moecompress.__file__).parents[1] / "evals"
SCRIPTS = [str(path) for folder in (EVALS, EVALS / "benchmarks") for path in sorted(folder.glob("*.py"))]

# A fresh process, since scripts put their own folder on the path; one for all, since torch takes seconds to import.
LOAD = """
import pathlib, runpy, sys
for script in sys.argv[1:]:
    sys.path.insert(0, str(pathlib.Path(script).parent))
    assert callable(runpy.run_path(script, run_name="loaded")["main"]), script
"""


def test_every_script_finds_what_it_imports():
    assert len(SCRIPTS) >= 8
    done = subprocess.run([sys.executable, "-c", LOAD, *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
