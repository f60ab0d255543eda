"""Fixtures for all tests. Nothing here imports torch until a fixture that needs it is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny(family, **options)` → folder of a tiny checkpoint, made once per session. Do not change what is in it."""
    made: dict[str, Path] = {}

    def make(family: str = "olmoe", **options: Any) -> Path:
        from moecompress.testing.tiny import tiny_model_folder

        key = f"{family} {sorted(options.items())}"
        if key not in made:
            made[key] = tiny_model_folder(family, tmp_path_factory.mktemp(family) / "model", **options)
        return made[key]

    return make


@pytest.fixture
def tiny_copy(tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`tiny_copy(family, **options)` → a copy of that folder which the test may change."""

    def copy(family: str = "olmoe", **options: Any) -> Path:
        return Path(shutil.copytree(tiny(family, **options), tmp_path / f"copy-{family}"))

    return copy
