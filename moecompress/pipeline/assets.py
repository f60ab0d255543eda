"""The small files of a checkpoint that an artifact carries: tokenizer, chat template, generation settings."""

from __future__ import annotations

from pathlib import Path

from moecompress.core.errors import SourceError

REQUIRED = ("tokenizer.json",)
OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json")


def source_assets(folder: Path) -> dict[str, Path]:
    """File name → path of what is copied. Raises SourceError when the fast tokenizer is missing."""
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"{folder} has no {missing[0]}. The runtime reads fast tokenizers only; convert with "
            "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`."
        )
    return {name: folder / name for name in (*REQUIRED, *OPTIONAL) if (folder / name).is_file()}
