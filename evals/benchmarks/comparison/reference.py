"""A real model beside the random ones: speed on real text, and how far each engine is from the original.

The check of the conversion is in it: the bfloat16 GGUF file must give the original's probabilities.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from comparison.paired import decode_turns, paired_ratio, rates
from comparison.plan import Plan
from comparison.protocol import Worker
from comparison.resident import REPACK, own, peer
from comparison.start import compress
from comparison.workspace import Workspace
from moecompress.artifact.files import artifact_bytes
from moecompress.artifact.reader import read_manifest
from moecompress.calibration.texts import evaluation_windows
from moecompress.evaluate.compare import evaluate, evaluate_reference, reference_of
from moecompress.evaluate.metrics import Floats
from moecompress.evaluate.reference import Window
from synthetic import artifact, gguf_file

KIND = "Q4_K_M"
WINDOW, WINDOWS = 256, 8
RECIPE = {
    "version": 1,
    "passes": [
        {"quantize.experts": {"method": "rtn", "bits": 4, "group_size": 64}},
        {"quantize.trunk": {"bits": 8}},
    ],
}


class WorkerTarget:
    """An engine in a worker as something to evaluate."""

    def __init__(self, worker: Worker, vocabulary: int) -> None:
        self._worker, self.vocabulary = worker, vocabulary

    def content_hash(self) -> str:
        """Not the original of anything."""
        raise ValueError("A worker's logits are compared with an original; they are not one.")

    def logits(self, windows: Sequence[Window]) -> Iterator[Floats]:
        """Logits after every token of every window."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "logits.npy"
            for window in windows:
                self._worker.ask("logits", ids=[int(token) for token in window], path=str(path))
                yield np.load(path)


def files(work: Workspace, model: Path) -> tuple[Path, dict[str, Path]]:
    """The model as our artifact, and as GGUF files: bfloat16 for the check, and the type compared with."""
    out = work.folder / "reference"
    if not out.is_dir():
        compress(str(model), RECIPE, out)
    if work.peer is None:
        return out, {}
    from comparison.checkpoint_gguf import convert

    whole, small = work.folder / "reference-BF16.gguf", work.folder / f"reference-{KIND}.gguf"
    if not whole.is_file():
        convert(model, whole)
    if not small.is_file():
        work.quantized(whole, small, KIND)
    return out, {"BF16": whole, KIND: small}


def decode(work: Workspace, plan: Plan, model: Path, texts: Sequence[Path]) -> dict[str, Any]:
    """Decoding speed on text the model was not trained on, everything in memory."""
    ours, theirs = files(work, model)
    ids = [int(token) for window in evaluation_windows(texts, model, WINDOW, WINDOWS) for token in window]
    record: dict[str, Any] = {"ours": _sizes(ours), "runs": {}}
    if not theirs:
        with own(work, plan, ours) as worker:
            return {**record, **rates(decode_turns({"ours": worker}, ids, plan.repeats, plan.decode_tokens))}
    record |= {"kind": KIND, "peer": _sizes(theirs[KIND])}
    for name, repack in REPACK.items():
        with own(work, plan, ours) as mine, peer(work, plan, theirs[KIND], repack=repack) as other:
            turns = decode_turns({"ours": mine, "peer": other}, ids, plan.repeats, plan.decode_tokens)
        record["runs"][name] = {**rates(turns), "ratio": paired_ratio(turns["ours"], turns["peer"])}
    return {**record, "ratio": min(run["ratio"] for run in record["runs"].values())}


def quality(work: Workspace, plan: Plan, model: Path, texts: Sequence[Path]) -> dict[str, Any]:
    """Perplexity and KL divergence from the original on the same windows; `BF16` checks the conversion."""
    ours, theirs = files(work, model)
    windows = evaluation_windows(texts, model, WINDOW, WINDOWS)
    original = reference_of(model, windows, work.folder)
    vocabulary = int(json.loads((model / "config.json").read_text())["vocab_size"])
    figures = {"original": asdict(evaluate_reference(windows, original))}
    with own(work, plan, ours) as worker:
        figures["ours"] = asdict(evaluate(WorkerTarget(worker, vocabulary), windows, original))
    for kind, path in theirs.items():
        with peer(work, plan, path, repack=False) as worker:
            figures[kind] = asdict(evaluate(WorkerTarget(worker, vocabulary), windows, original))
    return {"window": WINDOW, "windows": len(windows), "figures": figures}


def _sizes(path: Path) -> dict[str, int]:
    if path.is_dir():
        manifest = read_manifest(path)
        top_k = manifest.architecture.config["num_experts_per_tok"]
        return {"bytes": artifact_bytes(path), "active_bytes": artifact.active_bytes(manifest, int(str(top_k)))}
    return {"bytes": path.stat().st_size, "active_bytes": gguf_file.active_bytes(path)}
