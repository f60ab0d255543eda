"""Evaluation of one model, and of an artifact beside its original on the same windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moecompress.core.progress import Progress, Silent
from moecompress.evaluate.metrics import Evaluation, Floats, Totals, log_softmax
from moecompress.evaluate.reference import ReferenceLogits, Window
from moecompress.evaluate.targets import EngineName, Target, open_target


def evaluate(
    target: Target,
    windows: Sequence[Window],
    reference: ReferenceLogits | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Figures of `target` on `windows`, with the KL fields when the original's log-probabilities are given."""
    progress = progress or Silent()
    totals = Totals()
    originals: Iterator[Floats | None] = iter(reference) if reference is not None else iter([None] * len(windows))
    progress.start("evaluate", len(windows), "windows")
    for window, logits, original in zip(windows, target.logits(windows), originals, strict=True):
        totals.add(window, log_softmax(logits), original)
        progress.advance()
    progress.finish()
    return totals.result()


def reference_of(
    original: Path, windows: Sequence[Window], cache: Path, progress: Progress | None = None
) -> ReferenceLogits:
    """The stored log-probabilities of the original, computed now unless they are there."""
    context = max(len(window) for window in windows)
    target = open_target(original, "auto", context)
    reference = ReferenceLogits(cache / "reference", target.content_hash(), windows, target.vocabulary)
    if not reference.complete:
        (progress or Silent()).log(f"computing the original's logits on {sum(map(len, windows))} tokens")
        reference.compute(target.logits)
    return reference


def evaluate_reference(windows: Sequence[Window], reference: ReferenceLogits) -> Evaluation:
    """The original's own figures, from its stored log-probabilities."""
    totals = Totals()
    for window, log_probs in zip(windows, reference, strict=True):
        totals.add(window, log_probs, log_probs)
    return totals.result()


def compare(
    original: Path,
    artifact: Path,
    windows: Sequence[Window],
    cache: Path,
    progress: Progress | None = None,
    engine: EngineName = "auto",
) -> dict[str, Any]:
    """`{"original": {...}, "artifact": {...}, "windows": n, "window": tokens}`: deterministic figures, no times."""
    reference = reference_of(original, windows, cache, progress)
    target = open_target(artifact, engine, max(len(window) for window in windows))
    return {
        "original": asdict(evaluate_reference(windows, reference)),
        "artifact": asdict(evaluate(target, windows, reference, progress)),
        "windows": len(windows),
        "window": max(len(window) for window in windows),
    }
