#!/usr/bin/env python3
"""Uniform bits × quantization method on one model, on text that calibration did not see.

    evals/quality.py --model builtin --title … --description … --out FILE
    evals/quality.py --model DIR --text a.test.txt --calibration a.train.txt --title … --description … --out FILE

Each artifact is made by the ordinary pipeline, measured by the native engine against the original's float32 logits, and
deleted. Points that are already in the output file are not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from moecompress.artifact.files import artifact_bytes
from moecompress.cli.screen import stderr, terminal_progress
from moecompress.cli.workflow import default_cache
from moecompress.evaluate.compare import compare
from moecompress.evaluate.reference import Window
from moecompress.models.locate import locate_model
from moecompress.pipeline.run import run_recipe
from moecompress.recipe.load import load_recipe


def main() -> int:
    """Measure every point that is missing; `scripts/generate_docs` then makes the tables and figures."""
    options = parse()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {"points": {}}
    results["command"] = command_line(options)
    model = locate_model(options.model)
    windows = choose_windows(model, options)
    results["title"], results["description"] = options.title, options.description
    results["original_bytes"] = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    results["windows"] = {"count": len(windows), "tokens": len(windows[0])}
    for method in options.methods:
        for bits in options.bits:
            name = f"{method} {bits} bit"
            if name not in results["points"]:
                results["points"][name] = measure(model, method, bits, windows, options)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", nargs="*", default=[], help="evaluation text; default: builtin held-out")
    parser.add_argument("--calibration", nargs="*", default=[], help="calibration text; default: builtin")
    parser.add_argument("--tokens", type=int, default=32768, help="calibration tokens")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=40, help="windows in all, shared evenly by the texts")
    parser.add_argument("--methods", nargs="+", default=["rtn", "hqq", "gptq"])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3, 2])
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--title", required=True, help="name of the model in tables")
    parser.add_argument("--description", required=True, help="what the model and the texts are, in a sentence")
    return parser.parse_args()


def choose_windows(model: Path, options: argparse.Namespace) -> list[Window]:
    """The evaluation windows, the same for every point."""
    from moecompress.calibration.texts import evaluation_windows

    return list(evaluation_windows([Path(text) for text in options.text], model, options.window, options.windows))


def recipe_text(method: str, bits: int, options: argparse.Namespace) -> str:
    """A recipe that quantizes the experts and nothing else."""
    calibration: dict[str, Any] = {"tokens": options.tokens, "sequence_length": options.window}
    if options.calibration:
        calibration["sources"] = [{"path": str(Path(path).resolve())} for path in options.calibration]
    experts = {"method": method, "bits": bits, "group_size": options.group_size}
    return json.dumps({"version": 1, "calibration": calibration, "passes": [{"quantize.experts": experts}]})


def measure(model: Path, method: str, bits: int, windows: list[Window], options: argparse.Namespace) -> dict[str, Any]:
    """One point: compress, evaluate, delete."""
    folder = Path(tempfile.mkdtemp(prefix="quality-", dir=options.cache if options.cache.is_dir() else None))
    try:
        (folder / "recipe.yaml").write_text(recipe_text(method, bits, options))
        start = time.monotonic()
        with terminal_progress() as progress:
            loaded = load_recipe(folder / "recipe.yaml")
            manifest = run_recipe(loaded, model, folder / "artifact", options.cache, progress).manifest
            seconds = time.monotonic() - start
            measured = compare(model, folder / "artifact", windows, options.cache, progress)
        stderr.print(f"{method} {bits} bit: {measured['artifact']}")
        return {
            "bytes": artifact_bytes(folder / "artifact"),
            "bits_per_weight": manifest.size.bits_per_weight,
            "artifact_hash": manifest.artifact_hash,
            "compress_seconds": round(seconds, 1),
            **measured,
        }
    finally:
        shutil.rmtree(folder)


def command_line(options: argparse.Namespace) -> str:
    """The command without the places of this machine: files by their names."""
    text = [f"--text {' '.join(Path(path).name for path in options.text)}"] if options.text else []
    calibration = (
        [f"--calibration {' '.join(Path(path).name for path in options.calibration)}"] if options.calibration else []
    )
    model = options.model if options.model == "builtin" else "MODEL"
    rest = f"--tokens {options.tokens} --window {options.window} --windows {options.windows}"
    rest += f" --group-size {options.group_size}"
    return " ".join(["evals/quality.py", "--model", model, *text, *calibration, rest])


if __name__ == "__main__":
    sys.exit(main())
