#!/usr/bin/env python3
"""Speeds that the `mxmoe` allocator weighs: seconds for one weight in a kernel at each width, and for one byte on disk.

    evals/benchmarks/kernel_costs.py --out FILE [--threads 1] [--folder DIR]

One activation row times a matrix too large for the caches, the fastest of several runs; direct reads of 1 MiB at random
places of a file in `--folder`, likewise. Name the file under `costs:` in a recipe.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.table import codec_of
from moecompress.runtime import _native

ROWS, COLUMNS, GROUP = 8192, 4096, 64
READ, FILE = 1 << 20, 256 << 20


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to be measured")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    table = {
        "machine": f"{machine()}, {_native.isa_name()}, {options.threads} threads",
        "command": f"evals/benchmarks/kernel_costs.py --threads {options.threads}",
        "seconds_per_weight": {bits: kernel(bits, options.threads, options.repeats) for bits in range(1, 9)},
        "seconds_per_byte": disk(options.folder, options.repeats),
    }
    options.out.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))
    return 0


def machine() -> str:
    """The processor's name as the system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def kernel(bits: int, threads: int, repeats: int) -> float:
    """Seconds for one weight."""
    spec = AffineSpec(bits=bits, group_size=GROUP)
    packed = np.random.default_rng(bits).integers(0, 256, codec_of(spec).nbytes(spec, (ROWS, COLUMNS)), dtype=np.uint8)
    inputs = np.ones((1, COLUMNS), np.float32)

    def run() -> None:
        _native.matmul("affine", bits, GROUP, ROWS, COLUMNS, packed, inputs, threads=threads)

    return fastest(run, repeats) / (ROWS * COLUMNS)


def disk(folder: Path, repeats: int) -> float:
    """Seconds for one byte, past the page cache."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(FILE // READ):
            file.write(os.urandom(READ))
        file.flush()
        os.fsync(file.fileno())
        descriptor = os.open(file.name, os.O_RDONLY | os.O_DIRECT)
        try:
            buffer, places = mmap.mmap(-1, READ), np.random.default_rng(0)

            def run() -> None:
                for place in places.integers(0, FILE // READ, 16):
                    os.preadv(descriptor, [buffer], int(place) * READ)

            return fastest(run, repeats) / (16 * READ)
        finally:
            os.close(descriptor)


def fastest(run: Callable[[], None], repeats: int) -> float:
    """Seconds of the quickest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
