"""Compress a Mixture-of-Experts language model by a recipe, and run the artifact inside a memory budget."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_transformers"]


def load_transformers(artifact: Any, **options: Any) -> Any:
    """An ordinary transformers causal LM whose experts come from the artifact; needs the `[compress]` extra."""
    from moecompress.bridge.load import load_transformers as load

    return load(artifact, **options)
