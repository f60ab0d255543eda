#!/usr/bin/env python3
"""EdgeMoE's four steps on our own runtime: what each one brings, on the same model and text.

    evals/benchmarks/ablation.py --json OUT [--work DIR] [--quick]

1. bf16: bfloat16 experts, read on demand past the page cache, one layer's worth in memory, nothing computed meanwhile
2. quantized: experts of 4 bits, otherwise the same
3. overlap: experts compute while others are read; the next layer's likely ones are read ahead while the disk is idle
4. cache: memory for the experts of one and a half tokens, given up by expected next use

The weights outside the experts, 8 bits, are in memory in every step. Steps take turns and figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from comparison import machine
from comparison.paired import PROMPT, portion
from comparison.plan import FULL, QUICK, Plan
from comparison.protocol import Worker
from comparison.resident import own
from comparison.workspace import Workspace
from synthetic.artifact import Bits
from synthetic.shapes import PRESETS, Shape


@dataclass(frozen=True)
class Step:
    """A step: bits of the experts, slots for them in token sets or layers, and how the engine runs."""

    name: str
    bits: int
    layers: float
    overlap: bool
    speculation: str
    policy: str

    def options(self, shape: Shape) -> dict[str, Any]:
        """Options of the engine."""
        slots = round(self.layers * shape.top_k)
        return {"slots": slots, "overlap": self.overlap, "speculation": self.speculation, "policy": self.policy}


def steps(shape: Shape) -> list[Step]:
    """The four steps; one token uses `layers · top_k` experts."""
    return [
        Step("bf16", 16, 1, False, "off", "lru"),
        Step("quantized", 4, 1, False, "off", "lru"),
        Step("overlap", 4, 2, True, "auto", "lru"),
        Step("cache", 4, 1.5 * shape.layers, True, "auto", "expected"),
    ]


def main(arguments: list[str] | None = None) -> int:
    """0 when every step is faster than the one before."""
    options = parse(arguments)
    plan, work = QUICK if options.quick else FULL, workspace(options)
    shape = PRESETS[plan.small]
    rows = measure(work, plan, shape)
    chain = [row["tps"] for row in rows]
    result = {
        "machine": machine.describe(),
        "shape": shape.name,
        "routing": work.routing(shape.name),
        "steps": rows,
        "chain": round(chain[-1] / chain[0], 2),
        "each_faster": all(later > earlier for earlier, later in pairwise(chain)),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["each_faster"] else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="where models are made, about 5 GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a small shape, for trying it out")
    return parser.parse_args(arguments)


def workspace(options: argparse.Namespace) -> Workspace:
    """The folder of models, without a peer."""
    folder = options.work / "quick" if options.quick else options.work
    return Workspace(folder.resolve(), None, sys.executable, options.threads, lambda line: print(line, file=sys.stderr))


def measure(work: Workspace, plan: Plan, shape: Shape) -> list[dict[str, Any]]:
    """A row for each step; the factor is to the step before."""
    found, ids = steps(shape), work.tokens(shape.name, plan.text)
    runs: dict[str, list[dict[str, float]]] = {step.name: [] for step in found}
    with ExitStack() as stack:
        workers = {}
        for step in found:
            path = work.artifact(shape.name, Bits(experts=step.bits, attention=8, head=8))
            workers[step.name] = stack.enter_context(own(work, plan, path, **step.options(shape)))
            workers[step.name].pause()
        for turn in range(plan.repeats + 1):
            for name, worker in workers.items():
                run = decode(worker, portion(ids, turn, PROMPT + plan.decode_tokens))
                runs[name] += [run] if turn else []
    return summary(found, runs, shape)


def decode(worker: Worker, ids: list[int]) -> dict[str, float]:
    """Speed and disk bytes per token of one worker's turn; the others stand still."""
    worker.resume()
    before = worker.ask("prefill", ids=ids[:PROMPT])["used"]["disk_bytes"]
    answer = worker.ask("decode", ids=ids[PROMPT:])
    worker.pause()
    count, store = len(answer["seconds"]), answer["store"]
    lookups = store["decode_hits"] + store["decode_misses"]
    return {
        "tps": count / sum(answer["seconds"]),
        "disk_bytes_per_token": (answer["used"]["disk_bytes"] - before) / count,
        "hit_rate": store["decode_hits"] / max(1, lookups),
    }


def summary(found: list[Step], runs: dict[str, list[dict[str, float]]], shape: Shape) -> list[dict[str, Any]]:
    """Medians of each step."""
    rows: list[dict[str, Any]] = []
    for step in found:
        row: dict[str, Any] = {"name": step.name, "expert_bits": step.bits, **step.options(shape)}
        for key in runs[step.name][0]:
            row[key] = round(statistics.median(run[key] for run in runs[step.name]), 4)
        row["factor"] = round(row["tps"] / rows[-1]["tps"], 2) if rows else 1.0
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
