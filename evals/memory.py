#!/usr/bin/env python3
"""Peak memory of the torch-free `generate` against its budget, for several budgets from the floor upwards.

    evals/memory.py --artifact runs/quickstart/artifact

A budget of one byte is refused with the smallest that works; that one, and some above it, are then run, each in a
process of its own. The text must be the same for every budget.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from moecompress.artifact.reader import read_manifest


def main() -> int:
    """0 when every peak is within its budget and every text is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--prompt", default="def main():\n")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    refusal = generate(options, 1).stderr
    floor = int(re.findall(r"smallest that works is (\d+) MiB", refusal)[0]) << 20
    experts = sum(e.bytes for layer in read_manifest(options.artifact).experts for e in layer.experts)
    rows = []
    for budget in (floor, floor + experts // 2, floor + experts + (16 << 20)):
        result = json.loads(generate(options, budget).stdout)
        keys = ("peak_rss_bytes", "budget_bytes", "tokens_per_s", "hit_rate", "text")
        rows.append({key: result.get(key) for key in keys})
    held = all(row["peak_rss_bytes"] <= row["budget_bytes"] for row in rows)
    same = len({row.pop("text") for row in rows}) == 1
    print(json.dumps({"held": held, "same_text": same, "rows": rows}, indent=1))
    return 0 if held and same else 1


def generate(options: argparse.Namespace, budget: int) -> subprocess.CompletedProcess[str]:
    """One run of the command under a budget in bytes."""
    command = [sys.executable, "-m", "moecompress.cli.main", "generate", str(options.artifact), "--json"]
    command += ["--prompt", options.prompt, "--max-tokens", str(options.max_tokens), "--memory", str(budget)]
    return subprocess.run(command, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
