"""Tiny artifacts for the engine's tests, each made once per session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Artifact = Callable[..., tuple[Path, Any]]


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`encoded(family, bits, **overrides)` → (artifact, transformers model with its weights). Do not change either."""
    import torch

    from moecompress.testing.native import Bits, tiny_artifact

    torch.set_num_threads(1)
    made: dict[str, tuple[Path, Any]] = {}

    def make(family: str = "qwen3_moe", bits: Bits | None = None, **overrides: Any) -> tuple[Path, Any]:
        chosen = bits or Bits(experts=3, trunk=8)
        key = f"{family} {chosen} {sorted(overrides.items())}"
        if key not in made:
            made[key] = tiny_artifact(tmp_path_factory.mktemp(family), family, chosen, **overrides)
        return made[key]

    return make


@pytest.fixture(scope="session")
def artifact(encoded: Artifact) -> Path:
    """One artifact for tests that do not care which: Qwen3-MoE, 2 layers of 8 experts, 3-bit experts."""
    return encoded()[0]


@pytest.fixture
def artifact_copy(artifact: Path, tmp_path: Path) -> Path:
    """The same, for tests that damage it."""
    return Path(shutil.copytree(artifact, tmp_path / "artifact"))


@pytest.fixture
def engine(artifact: Path) -> Iterator[Any]:
    """An engine on it, with fewer slots than experts."""
    from moecompress.runtime.engine import Engine

    with Engine.open(artifact, threads=1, context=128, slots=5) as opened:
        yield opened
