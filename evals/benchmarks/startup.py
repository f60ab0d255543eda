#!/usr/bin/env python3
"""Start-up time and memory of the engine: fresh processes, medians, torch never imported.

    evals/benchmarks/startup.py --artifact runs/quickstart/artifact [--runs 9] [--json]

`import_to_first_token_s` begins before `import moecompress` and ends when the first piece of text is there;
`process_to_first_token_s` begins when the process is made, `command_to_first_token_s` is the same for
`moecompress generate`. `rss_before_weights_bytes` is resident memory when the interpreter, the libraries, the manifest
and the tokenizer are loaded and no weight is: what the ledger calls `interpreter`. CPU seconds stand beside each time,
for machines that do other work meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROMPT = "def read_lines(path):\n"

ENGINE = """
import sys, time
begun = time.monotonic()
from moecompress.runtime.engine import Engine
imported = time.monotonic()
with Engine.open(sys.argv[1], threads=1) as engine:
    opened = time.monotonic()
    generation = iter(engine.generate(sys.argv[2], max_tokens=2))
    next(generation)
    first = time.monotonic()
    plan = engine.plan
    loaded = set(sys.modules)
import json, resource
from moecompress.core.memory import peak_rss_bytes
print(json.dumps({
    "import_s": imported - begun,
    "open_s": opened - imported,
    "import_to_first_token_s": first - begun,
    "process_to_first_token_s": first - float(sys.argv[3]),
    "cpu_s": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
    "rss_before_weights_bytes": plan.interpreter,
    "peak_rss_bytes": peak_rss_bytes(),
    "imported": sorted(loaded & {"torch", "numpy", "pydantic", "jinja2", "typer", "rich", "tokenizers"}),
}))
"""


def main() -> int:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [engine(options.artifact) for _ in range(options.runs)]
    result = medians(rows)
    result["command_to_first_token_s"] = statistics.median(command(options.artifact) for _ in range(options.runs))
    result["runs"] = options.runs
    result["python"] = sys.version.split()[0]
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for key, value in result.items():
            shown = f"{value / 2**20:.1f} MiB" if key.endswith("_bytes") else value
            print(f"{key:28} {f'{shown:.3f} s' if isinstance(shown, float) else shown}")
    return 0


def engine(artifact: Path) -> dict[str, Any]:
    """One fresh process that opens the artifact and generates one token."""
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, artifact, PROMPT, str(time.monotonic())],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def command(artifact: Path) -> float:
    """Seconds until `moecompress generate` shows its first piece of text."""
    arguments = ["generate", str(artifact), "--prompt", PROMPT, "--max-tokens", "2", "--threads", "1"]
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "moecompress.cli.main", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return time.monotonic() - begun


def medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every figure; what was imported is the same in all."""
    first = rows[0]
    return {
        key: value if key == "imported" else statistics.median(row[key] for row in rows) for key, value in first.items()
    }


if __name__ == "__main__":
    sys.exit(main())
