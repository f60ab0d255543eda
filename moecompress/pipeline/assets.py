"""The small files of a checkpoint that an artifact carries: tokenizer, chat template, generation settings."""

from __future__ import annotations

from pathlib import Path

from moecompress.core.errors import SourceError
from moecompress.models.source import TensorSource

REQUIRED = "tokenizer.json"
CARRIED = (
    REQUIRED,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def source_assets(source: TensorSource) -> dict[str, Path]:
    """File name → path of what is copied. Raises SourceError when the fast tokenizer is missing."""
    if REQUIRED not in source.assets:
        raise SourceError(
            f"{source.folder} has no {REQUIRED}. The runtime reads fast tokenizers only; convert with "
            "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`."
        )
    return {name: path for name, path in source.assets.items() if name in CARRIED}
