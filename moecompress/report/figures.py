"""Figures of the report as inline SVG, so that the page is one file and needs no network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

_STYLE: Any = {"svg.hashsalt": "moecompress", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def _svg(figure: Figure) -> str:
    """The figure's `<svg>` element, without dates, its own background removed so that dark pages work."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def heat_map(values: Sequence[Sequence[float]], label: str, column: str) -> str:
    """A layer × expert map (rows are MoE layers, possibly of unequal length) with a colour scale named `label`."""
    width = max(len(row) for row in values)
    grid = [[*row, *[float("nan")] * (width - len(row))] for row in values]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(max(3.0, min(10.0, 0.25 * width + 1.5)), max(1.6, 0.22 * len(grid) + 1.0)))
        image = axes.imshow(grid, aspect="auto", cmap="viridis")
        axes.set_xlabel(column)
        axes.set_ylabel("MoE layer")
        figure.colorbar(image, label=label)
        return _svg(figure)


def size_against(points: Sequence[tuple[str, int, float]], metric: str) -> str:
    """Bytes on disk against one metric for named points (name, bytes, value)."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(5, 3))
        for name, size, value in points:
            axes.plot(size / 2**20, value, "o")
            axes.annotate(name, (size / 2**20, value), xytext=(5, 5), textcoords="offset points")
        axes.set_xlabel("MiB on disk")
        axes.set_ylabel(metric)
        axes.set_xlim(left=0)
        axes.margins(0.2)
        return _svg(figure)


def quality_figure(results: Mapping[str, Any]) -> str:
    """KL divergence to the original against bytes on disk, one line per method, from a file of evals/results."""
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for name, point in results["points"].items():
        method, bits, _ = name.split(" ")
        lines.setdefault(method, []).append((point["bytes"] / 2**20, point["artifact"]["kl_mean"], bits))
    with plt.rc_context({**_STYLE, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(figsize=(6, 3.6))
        for (method, points), marker in zip(lines.items(), "osD^v", strict=False):
            sizes, divergences, bits = zip(*sorted(points), strict=True)
            axes.plot(sizes, divergences, marker=marker, label=method)
            if method == list(lines)[-1]:
                for size, divergence, width in zip(sizes, divergences, bits, strict=True):
                    axes.annotate(f"{width} bit", (size, divergence), xytext=(0, -14), textcoords="offset points")
        axes.set_yscale("log")
        axes.set_xlabel("MiB on disk")
        axes.set_ylabel("mean KL divergence (nats)")
        axes.set_title(results["title"])
        axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", facecolor="white", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
        return text.getvalue()
