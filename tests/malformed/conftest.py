"""One artifact that the engine runs, for damaging it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def runnable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-MoE with tokenizer, chat template and priors: 2 layers of 8 experts, biases and a shared expert."""
    from moecompress.testing.native import Bits, tiny_artifact

    return tiny_artifact(tmp_path_factory.mktemp("runnable"), "qwen2_moe", Bits(experts=3, trunk=8), priors=True)[0]
