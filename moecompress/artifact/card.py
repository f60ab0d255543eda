"""The model card, and the one knot of the manifest: the card shows the total size, and is part of it.

`settle` unties it: it fixes a total with a little room, writes both texts for it, and fills the manifest with spaces
up to exactly that total. So `size.bytes` is the number of bytes on disk, to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from moecompress.artifact.manifest import (
    MANIFEST,
    README,
    Manifest,
    StoredFile,
    StoredTensor,
    canonical_evaluation,
    manifest_text,
)
from moecompress.artifact.reader import read_manifest
from moecompress.artifact.writing import write_file
from moecompress.core.hashing import sha256_bytes
from moecompress.core.units import format_size

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_ROOM = 64
_SETTINGS: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}


def attach_evaluation(folder: Path, evaluation: Mapping[str, Any]) -> Manifest:
    """Store measured figures with an artifact: its manifest and README.md are rewritten, its `artifact_hash` stays.

    Each file is replaced by one rename; after a kill between the two, calling again repairs README.md. Raises
    ArtifactError when the figures are not plain JSON values.
    """
    manifest = read_manifest(folder)
    plain = canonical_evaluation(evaluation)
    manifest, text, card = settle(replace(manifest, evaluation=plain))
    write_file(folder / README, card)
    write_file(folder / MANIFEST, text)
    return manifest


def settle(manifest: Manifest) -> tuple[Manifest, bytes, bytes]:
    """The manifest with its final `size.bytes` and README.md entry, its text, and the card's text."""
    others = sum(file.bytes for name, file in manifest.files.items() if name != README)
    total = others
    while True:
        final, card = _with_total(manifest, total)
        least = others + len(card) + len(manifest_text(final))
        if least <= total:
            text = manifest_text(final, total - others - len(card))
            return replace(final, checksum=_checksum(text)), text, card
        total = least + _ROOM


def _with_total(manifest: Manifest, total: int) -> tuple[Manifest, bytes]:
    sized = replace(manifest, size=replace(manifest.size, bytes=total))
    card = render_card(sized).encode()
    entry = StoredFile(bytes=len(card), sha256=sha256_bytes(card))
    files = dict(sorted({**sized.files, README: entry}.items()))
    return replace(sized, files=files), card


def _checksum(text: bytes) -> str:
    found: list[str] = re.findall(r'"checksum": "([0-9a-f]{64})"', text.decode())
    return found[-1]


def render_card(manifest: Manifest) -> str:
    """README.md of an artifact: front matter, how to run it, sizes, measured figures, how it was made."""
    template = Environment(**_SETTINGS).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    text: str = template.render(
        manifest=manifest,
        total=f"{manifest.size.bytes:,} bytes ({format_size(manifest.size.bytes)})",
        bits=_bits_table(manifest),
        figures=_figures(manifest),
    )
    return text.rstrip() + "\n"


def _bits_table(manifest: Manifest) -> list[tuple[str, str, int, str, str]]:
    """One row per use and codec: (used for, codec, matrices, effective bits, bytes)."""
    groups: dict[tuple[str, str], list[StoredTensor]] = {}
    for tensor in manifest.trunk.values():
        groups.setdefault(("trunk", tensor.codec), []).append(tensor)
    for expert in (expert for layer in manifest.experts for expert in layer.experts):
        for name, tensor in expert.projections.items():
            groups.setdefault((f"experts, {name}", tensor.codec), []).append(tensor)
    rows = []
    for (use, codec), tensors in sorted(groups.items()):
        size, weights = sum(tensor.bytes for tensor in tensors), sum(tensor.parameters for tensor in tensors)
        rows.append((use, codec, len(tensors), f"{8 * size / weights:.2f}", f"{size:,}"))
    return rows


_COLUMNS = {
    "bytes": ("bytes on disk", "{:,}"),
    "bits_per_weight": ("bits/weight", "{:.2f}"),
    "perplexity": ("perplexity", "{:.3f}"),
    "stderr": ("± standard error", "{:.3f}"),
    "kl_mean": ("mean KL", "{:.4f}"),
    "kl_p99": ("99th percentile KL", "{:.4f}"),
    "top1_agreement": ("same top-1", "{:.2%}"),
    "tokens_per_s": ("tokens/s", "{:.1f}"),
    "peak_rss_bytes": ("peak memory, bytes", "{:,}"),
}


def _figures(manifest: Manifest) -> list[list[str]]:
    """Head and rows of the table of measured figures, empty without an evaluation; only columns that were measured."""
    evaluation = manifest.evaluation or {}
    own = {"bytes": manifest.size.bytes, "bits_per_weight": manifest.size.bits_per_weight}
    rows: dict[str, dict[str, Any]] = {}
    for name in ("original", "artifact"):
        measured = evaluation.get(name)
        if isinstance(measured, dict):
            rows[name] = {**measured, **(own if name == "artifact" else {})}
    if not rows:
        return []
    shown = [key for key in _COLUMNS if any(_is_number(row.get(key)) for row in rows.values())]
    table = [["model", *[_COLUMNS[key][0] for key in shown]]]
    for name, row in rows.items():
        table.append([name, *[_COLUMNS[key][1].format(row[key]) if _is_number(row.get(key)) else "–" for key in shown]])
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
