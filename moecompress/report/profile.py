"""A model's profile as tables for a terminal, findings in words, and one HTML page without references outside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from rich.table import Table
from rich.text import Text

from moecompress import __version__
from moecompress.report.figures import heat_map
from moecompress.report.html import Section

if TYPE_CHECKING:
    from moecompress.pipeline.profile import ExpertProfile, Profile

_SHADES = "▁▂▃▄▅▆▇█"
_LISTED = 8


def usage_table(profile: Profile) -> Table:
    """A row for each layer: use of its experts as shades, and medians of what was measured."""
    columns = ["layer", "use of experts", "least / most used"] if _has_text(profile) else ["layer"]
    table = Table(*columns, "kurtosis (worst)", "alpha", "stable rank", *_nats_heading(profile), box=None)
    for layer, experts in profile.layers.items():
        cells: list[str | Text] = [str(layer)]
        if _has_text(profile):
            shares = np.array([expert.share for expert in experts])
            cells += [shades(shares), f"{shares.min():.1%} / {shares.max():.1%}"]
        kurtosis = np.array([expert.kurtosis for expert in experts])
        cells.append(f"{np.median(kurtosis):.2f} ({kurtosis.max():.2f})")
        cells += [f"{_median(experts, lambda expert: expert.alpha):.2f}"]
        cells += [f"{_median(experts, lambda expert: expert.stable_rank):.1f}"]
        cells += [f"{sum((expert.nats or {}).get(bits, 0) for expert in experts):.4f}" for bits in _bits(profile)]
        table.add_row(*cells)
    return table


def shades(values: np.ndarray) -> str:
    """One character for each value, the largest a full block."""
    top = float(values.max()) or 1.0
    return "".join(_SHADES[min(len(_SHADES) - 1, int(len(_SHADES) * value / top))] for value in values)


def findings(profile: Profile) -> list[str]:
    """What would compress well and what would not, in sentences."""
    experts = [(layer, expert) for layer, row in profile.layers.items() for expert in row]
    said = []
    if _has_text(profile):
        said += _about_bits(profile, experts) + _about_use(profile)
    tails = sorted(experts, key=lambda item: -item[1].kurtosis)[:3]
    named = ", ".join(f"{_name(*item)} ({item[1].kurtosis:.1f})" for item in tails)
    said.append(f"Largest kurtosis, where outliers stretch a group's step: {named}; 3 is that of normal weights.")
    energy = float(np.median([expert.energy for _, expert in experts]))
    verdict = "low rank would lose little" if energy > 0.8 else "low rank alone would lose much"
    said.append(
        f"The largest tenth of the singular values holds {energy:.0%} of a matrix's energy (median): {verdict}."
    )
    return said


def _about_bits(profile: Profile, experts: Sequence[tuple[int, ExpertProfile]]) -> list[str]:
    fewest, more = min(_bits(profile)), sorted(_bits(profile))[1]

    def lost(item: tuple[int, ExpertProfile]) -> float:
        nats = item[1].nats or {}
        return nats[fewest] - nats[more]

    order = sorted(experts, key=lost)
    total, half = sum(map(lost, order)), order[: len(order) // 2]
    easy, hard = (", ".join(_name(*item) for item in part) for part in (order[:_LISTED], order[::-1][:_LISTED]))
    return [
        f"From {more} to {fewest} bits by plain rounding all experts together lose {total:.4f} nats by prediction; the "
        f"half that loses least accounts for {sum(map(lost, half)) / max(total, 1e-300):.0%} of it.",
        f"Safest at {fewest} bits: {easy}.",
        f"First to need {more} bits: {hard}.",
    ]


def _about_use(profile: Profile) -> list[str]:
    rare, number = [], 0
    for layer, row in profile.layers.items():
        even = sum(expert.share or 0 for expert in row) / len(row)
        rare += [_name(layer, expert) for expert in row if (expert.share or 0) < even / 4]
        number += len(row)
    if not rare:
        return ["No expert is used less than a quarter as often as the average one of its layer."]
    return [
        f"{len(rare)} of {number} experts are used less than a quarter of the average: {', '.join(rare[:_LISTED])}."
    ]


def write_profile(path: Path, title: str, profile: Profile) -> None:
    """Write the page to `path` through a temporary name."""
    environment = Environment(loader=PackageLoader("moecompress.report"), autoescape=select_autoescape(default=True))
    page = environment.get_template("profile.html.jinja").render(
        title=title,
        text=profile.text,
        findings=findings(profile),
        sections=sections(profile),
        version=__version__,
    )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def sections(profile: Profile) -> list[Section]:
    """Heat maps of every figure, layer by expert."""
    found = []
    if _has_text(profile):
        fewest = min(_bits(profile))
        found += [
            _map(profile, "Use", "Share of the layer's tokens that the router sends to each expert.", "share", _share),
            _map(
                profile,
                f"Predicted divergence at {fewest} bits",
                "Nats per token that rounding one expert alone is predicted to cost, logarithm to base 10.",
                "log₁₀ nats",
                lambda expert: np.log10(max((expert.nats or {})[fewest], 1e-12)),
            ),
            _map(
                profile,
                f"Output error at {fewest} bits",
                "Mean squared change of the block's output when one expert alone is rounded, logarithm to base 10.",
                "log₁₀ error",
                lambda expert: np.log10(max((expert.error or {})[fewest], 1e-12)),
            ),
            _map(
                profile,
                "Hessian trace",
                "Tr(mean x xᵀ) per input times the squared rounding error of all matrices, logarithm to base 10.",
                "log₁₀ trace",
                lambda expert: np.log10(max(expert.trace or 0, 1e-12)),
            ),
        ]
    found += [
        _map(
            profile, "Kurtosis", "3 for normal weights; outliers raise it.", "kurtosis", lambda expert: expert.kurtosis
        ),
        _map(
            profile,
            "Heavy tails",
            "Power-law exponent of the spectrum; small: heavy.",
            "alpha",
            lambda expert: expert.alpha,
        ),
        _map(
            profile,
            "Energy in a tenth of the spectrum",
            "Share of ‖W‖² in the largest tenth of the singular values; near 1 where low rank would do.",
            "share",
            lambda expert: expert.energy,
        ),
    ]
    return found


def _map(profile: Profile, heading: str, text: str, label: str, value: Callable[[ExpertProfile], float]) -> Section:
    rows = [[float(value(expert)) for expert in row] for row in profile.layers.values()]
    return Section(heading, text, heat_map(rows, label, "expert"))


def _share(expert: ExpertProfile) -> float:
    return expert.share or 0.0


def _has_text(profile: Profile) -> bool:
    return any(expert.share is not None for row in profile.layers.values() for expert in row)


def _bits(profile: Profile) -> list[int]:
    return list(profile.effective_bits) if _has_text(profile) else []


def _nats_heading(profile: Profile) -> list[str]:
    return [f"nats at {bits} bits" for bits in _bits(profile)]


def _median(experts: Sequence[ExpertProfile], value: Callable[[ExpertProfile], float]) -> float:
    return float(np.median([value(expert) for expert in experts]))


def _name(layer: int, expert: ExpertProfile) -> str:
    return f"{layer}/{expert.expert}"
