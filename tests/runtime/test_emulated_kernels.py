"""Every vector path equals the scalar one bit for bit, also those whose instructions this processor lacks.

The kernels' own sources are compiled against `emulated/`, where SIMDe provides the intrinsics as portable C++.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest
import simde_py

CORE = Path(__file__).parents[2] / "moecompress" / "runtime" / "core"
HERE = Path(__file__).parent / "emulated"
PATHS = ("avx2", "avx512vnni")
SUBJECTS = (
    *(f"affine{bits}" for bits in range(1, 9)),
    "dense",
    "quantize",
    "silu_multiply",
    "exp_shifted",
    "dot",
    "add_scaled",
)


def compile_program(program: Path) -> None:
    """`emulated/compare.cpp` with the kernels, on the emulated headers."""
    sources = [path for path in sorted((CORE / "kernels").glob("*.cpp")) if path.stem not in ("dispatch", "threads")]
    command = [os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-Wno-psabi"]
    command += ["-I", HERE, "-I", CORE, "-isystem", simde_py.get_include()]
    subprocess.run([*command, HERE / "compare.cpp", *sources, "-o", program], check=True)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The program, compiled once however many processes run the tests."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent
    made = folder / "compare"
    with (folder / "compare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            compile_program(made)
    return made


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("path", PATHS)
def test_an_emulated_path_has_the_bits_of_the_scalar_one(program: Path, path: str, subject: str) -> None:
    result = subprocess.run([program, path, subject], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.split()[0]) > 100
