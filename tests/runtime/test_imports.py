"""What the runtime needs to be imported: little, and never torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "scipy", "matplotlib", "optimum", "accelerate", "safetensors")


def _loaded(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sorted(name for name in sys.modules if '.' not in name))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["moecompress.runtime", "moecompress.runtime.engine"])
def test_the_runtime_never_imports_torch(module):
    assert not _loaded(module) & set(HEAVY)


def test_what_is_not_used_is_not_imported():
    assert not _loaded("moecompress.runtime") & {"pydantic", "numpy", "tokenizers", "jinja2"}
    assert not _loaded("moecompress.runtime.engine") & {"jinja2", "tokenizers", "typer", "rich"}
