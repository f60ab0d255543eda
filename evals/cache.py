#!/usr/bin/env python3
"""Hit rates of every cache policy, and recall of every predictor, on traces of held-out text.

    evals/cache.py --artifact NAME=DIR --text NAME=a.test.txt,b.test.txt … [--live] --out evals/results/cache.json

For each artifact the texts (`builtin`: the held-out part of the text that every Python carries) are traced and the
trace is replayed at 0.5 to 3 token sets. With --live the replayed hit rates are held against live runs of the engine,
which decode the beginning of the same texts one token at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from moecompress import __version__
from moecompress.runtime import replay
from moecompress.runtime.engine import Engine
from moecompress.runtime.trace import Trace, read_trace

LIVE_TOKENS = 384


def main() -> int:
    """Write the results file, whole after each artifact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--text", action="append", required=True, metavar="NAME=FILE,…")
    parser.add_argument("--tokens", type=int, default=8192, help="of all texts of an artifact together")
    parser.add_argument("--context", type=int, default=512, help="tokens after which a text is begun anew")
    parser.add_argument("--live", action="store_true", help="also run the engine at 1.5 token sets")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    texts = dict(item.split("=", 1) for item in options.text)
    results: dict[str, Any] = {"moecompress": __version__, "models": {}}
    for item in options.artifact:
        name, folder = item.split("=", 1)
        with tempfile.TemporaryDirectory() as scratch:
            paths = _paths(texts[name], Path(scratch))
            out = Path(scratch) / "trace"
            command = [
                sys.executable,
                "-m",
                "moecompress.cli.main",
                "trace",
                folder,
                "--out",
                str(out),
                "--threads",
                "1",
            ]
            command += ["--tokens", str(options.tokens), "--context", str(options.context)]
            subprocess.run([*command, *[word for path in paths for word in ("--text", str(path))]], check=True)
            trace = read_trace(out)
            report = _report(trace, Path(folder))
            report["texts"] = [path.name for path in paths]
            report["context"] = options.context
            if options.live:
                report["live"] = _live(trace, Path(folder), paths)
        results["models"][name] = report
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        _print(name, report)
    return 0


def _paths(texts: str, scratch: Path) -> list[Path]:
    if texts != "builtin":
        return [Path(text) for text in texts.split(",")]
    from moecompress.calibration.builtin import builtin_documents

    path = scratch / "builtin-heldout.txt"
    path.write_text("\n\n".join(document.text for document in builtin_documents("heldout")))
    return [path]


def _report(trace: Trace, folder: Path) -> dict[str, Any]:
    from moecompress.artifact.reader import ArtifactReader

    with ArtifactReader(folder) as reader:
        priors = reader.priors()
    rates = replay.hit_rates(trace, replay.policies(), replay.default_slots(trace))
    report = replay.report(trace, rates, replay.recalls(trace, priors), 0)
    for row in report["capacities"]:
        row["points_over_lru"] = {name: 100 * (rate - row["hit_rate"]["lru"]) for name, rate in row["hit_rate"].items()}
    return report


def _live(trace: Trace, folder: Path, paths: list[Path]) -> dict[str, Any]:
    """Hit rates of the first tokens of the first text: decoded by the engine, and replayed."""
    import numpy as np

    slots = round(1.5 * trace.header.token_set)
    tokens = min(LIVE_TOKENS, trace.header.sequences[0].tokens)
    rows = {}
    for policy in replay.policies()[:-1]:
        with Engine.open(folder, threads=1, slots=slots, policy=policy, context=tokens + 1) as engine:
            ids = engine.tokenizer.encode(paths[0].read_text()[: 16 * tokens])[:tokens]
            engine.start(ids[:1])
            for count in range(2, tokens + 1):
                engine.step(ids[:count])
            stats = engine.store_stats()
        first = Trace(
            trace.header, *(np.ascontiguousarray(part[:tokens]) for part in _parts(trace)), trace.record_bytes
        )
        (replayed,) = replay.hit_rates(first, [policy], [slots])
        rows[policy] = {"live": stats.hit_rate, "replayed": replayed.hit_rate}
    return {"slots": slots, "tokens": tokens, "hit_rate": rows}


def _parts(trace: Trace) -> tuple[Any, Any, Any]:
    return trace.chosen, trace.weights, trace.guesses


def _print(name: str, report: dict[str, Any]) -> None:
    print(f"{name}: {report['tokens']} tokens, {report['layers']} layers of {report['top_k']} experts a token")
    for row in report["capacities"]:
        rates = "  ".join(f"{policy} {100 * rate:.1f}" for policy, rate in row["hit_rate"].items())
        print(f"  {row['token_sets']:.2f} token sets ({row['slots']} experts): {rates}")
    for predictor, found in report["predictors"].items():
        print(f"  {predictor}: recall {found['recall']:.1%}, with twice the guesses {found['recall_twice']:.1%}")
    for policy, rates in report.get("live", {}).get("hit_rate", {}).items():
        print(f"  live {policy}: {rates['live']:.4f}, replayed {rates['replayed']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
