"""The benchmarks' packages on the path, and a synthetic model small enough for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import moecompress

BENCHMARKS = Path(moecompress.__file__).parents[1] / "evals" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from synthetic.shapes import Shape  # noqa: E402
from synthetic.weights import Weights  # noqa: E402

TINY = Shape("tiny", hidden=64, width=64, layers=3, experts=8, top_k=2, heads=2, vocabulary=512, topics=8, context=128)


@pytest.fixture
def weights() -> Weights:
    """Three layers of eight experts, top-2."""
    return Weights(TINY)
