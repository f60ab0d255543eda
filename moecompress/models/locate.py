"""Where a model is: the embedded default model, a local folder, or a hub id (only safetensors are fetched)."""

from __future__ import annotations

import re
from pathlib import Path

from moecompress.core.errors import SourceError, UsageError

BUILTIN = "builtin"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer*"]


def embedded_model() -> Path:
    """The folder of the small MoE that ships with the package."""
    return Path(__file__).parent.parent / "assets" / "tiny_moe"


def locate_model(name: str | None) -> Path:
    """The folder of a checkpoint. Raises UsageError when nothing is named, SourceError when it cannot be had."""
    if name is None:
        raise UsageError(
            "No model is named. Give --model FOLDER, or write `model:` into the recipe (`builtin` always works)."
        )
    if name == BUILTIN:
        return embedded_model()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith(".") or not _HUB_ID.fullmatch(name):
        raise SourceError(
            f"There is no folder {name!r}. Give a checkpoint's folder, `builtin`, or a hub id such as org/name."
        )
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SourceError(
            f"{name!r} is no local folder, and the hub did not give it ({type(error).__name__}). "
            "Download it where there is a network and give the folder."
        ) from error
