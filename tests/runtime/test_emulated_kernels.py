"""Every vector path equals the scalar one bit for bit, also those whose instructions this processor lacks.

The kernels' own sources are compiled against `emulated/`, where SIMDe provides the intrinsics as portable C++. The slow
tests compile NEON's for an ARM processor and run the program on qemu.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import simde_py

CORE = Path(__file__).parents[2] / "moecompress" / "runtime" / "core"
HERE = Path(__file__).parent / "emulated"
PATHS = ("neon", "avx2", "avxvnni", "avx512vnni", "amx")
SUBJECTS = (
    *(f"affine{bits}" for bits in range(1, 9)),
    "dense",
    "quantize",
    "silu_multiply",
    "exp_shifted",
    "dot",
    "add_scaled",
    "row_dots",
    "add_rows",
)


FLAGS = ["-std=c++17", "-ffp-contract=off", "-I", CORE]
CROSS, QEMU = "aarch64-linux-gnu-g++", "qemu-aarch64"


def kernel_sources(*without: str) -> list[Path]:
    return [path for path in sorted((CORE / "kernels").glob("*.cpp")) if path.stem not in ("threads", *without)]


def compile_program(program: Path) -> None:
    """`emulated/*.cpp` with the kernels and their dispatch, on the emulated headers, for all processors at once."""
    command = [os.environ.get("CXX", "g++"), *FLAGS, "-Og", "-w", "-Wno-psabi", "-isystem", simde_py.get_include()]
    command += ["-DMOECOMPRESS_X86=1", "-DMOECOMPRESS_ARM=1", "-I", HERE, *sorted(HERE.glob("*.cpp"))]
    subprocess.run([*command, *kernel_sources("processor"), "-o", program], check=True)


def compile_arm_program(program: Path) -> None:
    """The same program for an ARM processor, with the compiler's own intrinsics and the real detection."""
    if shutil.which(CROSS) is None or shutil.which(QEMU) is None:
        pytest.fail(f"{CROSS} and {QEMU} are needed: apt-get install g++-aarch64-linux-gnu qemu-user")
    neon = program.with_suffix(".o")
    strict = [CROSS, *FLAGS, "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*strict, "-march=armv8.2-a+dotprod", "-c", CORE / "kernels" / "neon.cpp", "-o", neon], check=True)
    rest = [HERE / "compare.cpp", *kernel_sources("neon"), neon]
    subprocess.run([*strict, "-static", *rest, "-o", program], check=True)


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


@pytest.fixture(scope="session")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("arm") / "compare"
    compile_arm_program(made)
    return made


def run(*command: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "MOECOMPRESS_ISA"}
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)


def report(*program: Path | str, **environment: str) -> dict[str, tuple[bool, bool, bool, str]]:
    """Path → supported, passed, chosen, refusal."""
    rows = [line.split(",", 4) for line in run(*program, "report", **environment).stdout.splitlines()]
    return {name: (bool(int(a)), bool(int(b)), bool(int(c)), refusal) for name, a, b, c, refusal in rows}


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("path", PATHS)
def test_an_emulated_path_has_the_bits_of_the_scalar_one(program: Path, path: str, subject: str) -> None:
    result = run(program, path, subject)
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.split()[0]) > 100


def test_the_best_path_is_chosen_when_all_pass(program: Path) -> None:
    paths = report(program)
    assert list(paths) == ["scalar", *PATHS]
    assert all(supported and passed and not refusal for supported, passed, _, refusal in paths.values())
    assert [name for name, row in paths.items() if row[2]] == [PATHS[-1]]


def test_a_path_the_processor_lacks_is_not_chosen(program: Path) -> None:
    paths = report(program, EMULATED_LACKS="avx512vnni")
    assert paths["avx512vnni"] == (False, False, False, "the test took AVX-512 away")
    assert paths["avxvnni"][2]


def test_tiles_that_the_operating_system_refuses_are_not_used(program: Path) -> None:
    paths = report(program, EMULATED_LACKS="tiles")
    assert paths["amx"] == (True, False, False, "the test refuses the tile registers")
    assert paths["avx512vnni"][2]


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        ("wrong", "its products of 1-bit codes differ from the scalar path's"),
        ("illegal", "its self-test met an illegal instruction"),
    ],
)
def test_a_path_that_fails_its_self_test_is_refused_with_the_reason(program: Path, fault: str, refusal: str) -> None:
    paths = report(program, EMULATED_FAULT=fault)
    assert paths["avx512vnni"] == (True, False, False, refusal)
    assert paths["avxvnni"][2]
    forced = run(program, "report", EMULATED_FAULT=fault, MOECOMPRESS_ISA="avx512vnni")
    assert forced.returncode == 2
    assert f"Instruction set 'avx512vnni' cannot be used: {refusal}. This machine runs" in forced.stdout


def test_the_self_test_sees_one_wrong_bit_in_any_function(program: Path) -> None:
    seen = dict(line.split(": ", 1) for line in run(program, "mistakes").stdout.splitlines())
    subjects = {
        "multiply0": "products of bf16 weights",
        **{f"multiply{bits}": f"products of {bits}-bit codes" for bits in range(1, 9)},
        "multiply9": "products of float32 weights",
        "quantize": "quantized activations",
        "silu_multiply": "gated activations",
        "exp_shifted": "exponentials",
        "dot": "inner products",
        "add_scaled": "scaled sums",
        "row_dots": "products with rows",
        "add_rows": "sums of rows",
    }
    expected = {name: f"its {subject} differ from the scalar path's" for name, subject in subjects.items()}
    assert seen == {"none": "", **expected}


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_neon_on_an_arm_processor_has_the_bits_of_the_scalar_path(arm_program: Path, subject: str) -> None:
    result = run(QEMU, arm_program, "neon", subject)
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.split()[0]) > 100


@pytest.mark.slow
def test_neon_is_chosen_only_where_the_processor_has_its_dot_products(arm_program: Path) -> None:
    assert report(QEMU, "-cpu", "max", arm_program)["neon"] == (True, True, True, "")
    older = report(QEMU, "-cpu", "cortex-a72", arm_program)
    assert older["neon"] == (False, False, False, "the processor has no dot products of bytes (ASIMDDP)")
    assert older["scalar"][2]
