#!/usr/bin/env python3
"""How near the expert kernels come to the speed at which this machine reads memory.

    evals/benchmarks/kernels.py --threads 1 2 --json kernels.json

Decode: one token through 8 experts (gate and up, SiLU, quantise, down), then the next through 8 others, over so many
experts that every weight comes from memory. The figure is bytes of packed weights per second, and its share of the
reading speed, which a loop that adds up all words of as large a buffer gives just before and after. Prefill: 8 experts
for many tokens each, in multiply-adds per second. Weights are random; speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moecompress.artifact.records import pack_record
from moecompress.artifact.sizes import place_experts
from moecompress.codecs.affine import CODEC, AffineSpec
from moecompress.core.types import PROJECTIONS
from moecompress.runtime import _native

TOP_K = 8
SHAPES = {"576x768": (576, 768), "2048x768": (2048, 768), "2048x1024": (2048, 1024)}  # hidden, width
EXPERT_FIELD = slice(12, 16)  # of a record's header


def main() -> int:
    """Measure what the command line asks for; 0."""
    options = parsed()
    decoded: list[dict[str, Any]] = []
    prefilled: list[dict[str, Any]] = []
    for shape in options.shapes:
        for bits in options.bits:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                experts = Experts(Path(folder), bits, options.group_size, *SHAPES[shape], options.mebibytes << 20)
                for threads in options.threads:
                    case = {"shape": shape, "bits": bits, "threads": threads}
                    decoded.append(shown(case | decode(experts, threads, options)))
                    for tokens in options.tokens:
                        prefilled.append(shown(case | prefill(experts, threads, tokens, options)))
    result = {
        "isa": options.isa or _native.isa_name(),
        "group_size": options.group_size,
        "decode": decoded,
        "prefill": prefilled,
        "kernels": shares(decoded, max(options.threads)),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["kernels"]))
    return 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="hidden size x width")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, nargs="*", default=[16, 128, 512], help="per expert, of prefill")
    parser.add_argument("--group-size", type=int, choices=(32, 64, 128), default=64)
    parser.add_argument("--mebibytes", type=int, default=256, help="of weights: many times the last cache")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--isa", default="", help="kernel path; default the best")
    parser.add_argument("--folder", type=Path, help="for the file of weights; default the system's temporary folder")
    parser.add_argument("--json", type=Path, help="write everything here")
    return parser.parse_args()


class Experts:
    """A file of equal experts, and the multiply-adds and bytes of packed weights of one."""

    def __init__(self, folder: Path, bits: int, group_size: Any, hidden: int, width: int, total: int) -> None:
        spec = AffineSpec(bits=bits, group_size=group_size)
        shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
        generator = np.random.default_rng(bits)
        weights = {name: CODEC.random(spec, shapes[name], generator) for name in PROJECTIONS}
        planned = {name: (spec, shapes[name]) for name in PROJECTIONS}
        one = place_experts(0, [planned])[1].experts[0]
        record = pack_record(0, 0, one, weights)
        self.folder, self.hidden, self.count = folder, hidden, -(-total // one.bytes // TOP_K) * TOP_K
        header, table, _ = place_experts(0, [planned] * self.count)
        with (folder / table.file).open("wb") as file:
            file.write(header)
            for index in range(self.count):
                record[EXPERT_FIELD] = index.to_bytes(4, "little")
                file.write(record)
        tensors = [
            ("affine", bits, group_size, *shapes[name], one.projections[name].offset, one.projections[name].bytes)
            for name in PROJECTIONS
        ]
        self.table = [(0, table.file, [(entry.offset, entry.bytes, *tensors) for entry in table.experts])]
        self.multiply_adds = 3 * hidden * width
        self.packed_bytes = sum(tensor.bytes for tensor in one.projections.values())

    def open(self, threads: int, chunk: int, isa: str) -> _native.RoutedExperts:
        """All of them in memory; `chunk` tokens are worked on at once."""
        return _native.RoutedExperts(str(self.folder), self.table, TOP_K, threads=threads, chunk=chunk, isa=isa)


def decode(experts: Experts, threads: int, options: argparse.Namespace) -> dict[str, float]:
    """Bytes of weights per second, one token at a time, and their share of the reading speed."""
    tokens = experts.count // TOP_K
    index = np.arange(experts.count).reshape(tokens, TOP_K)
    run = prepared(experts.open(threads, 1, options.isa), experts.hidden, index)
    run()
    rates, reading = [], [read_speed(threads, options)]
    for _ in range(options.repeats):
        rates.append(experts.count * experts.packed_bytes / seconds(run))
        reading.append(read_speed(threads, options))
    shares_ = [2 * rate / (before + after) for rate, before, after in zip(rates, reading, reading[1:], strict=False)]
    return {
        "bytes_per_s": statistics.median(rates),
        "read_bytes_per_s": statistics.median(reading),
        "share": statistics.median(shares_),
    }


def prefill(experts: Experts, threads: int, tokens: int, options: argparse.Namespace) -> dict[str, float]:
    """Multiply-adds per second when 8 experts each work on `tokens` tokens at once."""
    index = np.tile(np.arange(TOP_K), (tokens, 1))
    run = prepared(experts.open(threads, tokens, options.isa), experts.hidden, index)
    run()
    work = tokens * TOP_K * experts.multiply_adds
    rate = statistics.median(work / seconds(run) for _ in range(options.repeats))
    return {"tokens": tokens, "multiply_adds_per_s": rate}


def prepared(experts: _native.RoutedExperts, hidden: int, index: np.ndarray) -> Any:
    """A call without arguments: all tokens through the experts that `index` names."""
    x = np.random.default_rng(0).normal(size=(len(index), hidden)).astype(np.float32)
    weights = np.full(index.shape, 1 / TOP_K, np.float32)
    return lambda: experts.run(0, x, index.astype(np.int64), weights)


def read_speed(threads: int, options: argparse.Namespace) -> float:
    """Bytes per second of a plain reading loop."""
    return statistics.median(_native.read_speeds(options.mebibytes << 20, threads, 3))


def seconds(run: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def shares(decoded: Sequence[dict[str, Any]], threads: int) -> dict[str, float]:
    """Bits to the mean share over all shapes, with the most threads."""
    of = {row["bits"]: [] for row in decoded}
    for row in decoded:
        if row["threads"] == threads:
            of[row["bits"]].append(row["share"])
    return {str(bits): round(statistics.mean(values), 3) for bits, values in of.items()}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """The row, after telling it on stderr."""
    figures = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items())
    print(" ".join(figures), file=sys.stderr)
    return row


if __name__ == "__main__":
    sys.exit(main())
