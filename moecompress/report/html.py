"""`report.html`: one file without references to anything outside it; light and dark; readable on a phone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from moecompress import __version__
from moecompress.report.figures import heat_map, size_against
from moecompress.report.table import HEADINGS, Row, cells


@dataclass(frozen=True)
class Section:
    """A heading, a sentence saying how to read it, and an inline SVG."""

    heading: str
    explanation: str
    svg: str


def sections(rows: Sequence[Row], bits: Sequence[Sequence[float]], notes: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The figures that the data at hand allow: size against perplexity, bits, error and usage per expert."""
    found = []
    points = [(row.name, row.bytes, row.perplexity) for row in rows if row.perplexity is not None]
    if len(points) > 1:
        found.append(
            Section("Size and perplexity", "Lower and further left is better.", size_against(points, "perplexity"))
        )
    if bits:
        text = "Effective bits per weight of each expert, scales and minima included."
        found.append(Section("Bits per expert", text, heat_map(bits, "bits per weight", "expert")))
    for key, heading, text, label in (
        ("error", "Error per expert", "Relative error of the expert's output on calibration text.", "relative error"),
        ("tokens", "Expert usage", "Calibration tokens routed to each expert.", "tokens"),
    ):
        rows_of = [note[key] for note in notes if isinstance(note.get(key), list)]
        if rows_of:
            found.append(Section(heading, text, heat_map(rows_of, label, "expert")))
    return found


def write_report(
    path: Path,
    title: str,
    rows: Sequence[Row],
    bits: Sequence[Sequence[float]],
    notes: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    sample: tuple[str, str] | None = None,
) -> None:
    """Write the page to `path` through a temporary name. `sample` is a prompt and the text that followed it."""
    environment = Environment(loader=PackageLoader("moecompress.report"), autoescape=select_autoescape(default=True))
    page = environment.get_template("report.html.jinja").render(
        title=title,
        headings=HEADINGS,
        rows=[cells(row) for row in rows],
        sections=sections(rows, bits, notes),
        sample=sample,
        provenance=json.dumps(provenance, indent=2, ensure_ascii=False),
        version=__version__,
    )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
