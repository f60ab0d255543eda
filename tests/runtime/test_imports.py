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
    unused = {"pydantic", "numpy", "tokenizers", "jinja2", "typer", "rich", "yaml"}
    assert not _loaded("moecompress.runtime") & unused
    assert not _loaded("moecompress.runtime.engine") & unused
    assert not _loaded("moecompress.cli.commands.generate") & (unused - {"typer"})


GENERATE = """
import sys
from moecompress.runtime.engine import Engine
with Engine.open(sys.argv[1], threads=1) as engine:
    engine.generate("a story", max_tokens=3, temperature=1.0, top_p=0.9).run()
print(*sorted(name for name in sys.modules if "." not in name))
"""


def test_generating_text_needs_the_tokenizer_library_alone(artifact):
    done = subprocess.run([sys.executable, "-c", GENERATE, artifact], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"numpy", "pydantic", "jinja2", "tokenizers", *HEAVY} == {"tokenizers"}
