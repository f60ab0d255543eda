"""`moecompress inspect X`: what an artifact or a checkpoint is made of, from headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from moecompress.cli.console import print_json
from moecompress.cli.screen import stdout
from moecompress.core.errors import UsageError
from moecompress.core.units import format_size


def COMMAND(
    model: Annotated[Path, typer.Argument(help="An artifact, or a checkpoint's folder.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show sizes, bits and experts of an artifact, or what was discovered in a checkpoint."""
    if not model.is_dir():
        raise UsageError(f"{model} is no folder. Give an artifact or a checkpoint.")
    facts = _artifact(model) if (model / "manifest.json").is_file() else _checkpoint(model)
    if json:
        print_json(facts)
        return
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        if not isinstance(value, list | dict):
            table.add_row(key, format_size(value) if key.endswith("bytes") and isinstance(value, int) else str(value))
    stdout.print(table)
    if "layers" in facts:
        stdout.print(_layer_table(facts["layers"]))


def _artifact(folder: Path) -> dict[str, Any]:
    from moecompress.artifact.files import artifact_bytes
    from moecompress.artifact.reader import read_manifest
    from moecompress.artifact.sizes import expert_bits

    manifest = read_manifest(folder)
    return {
        "kind": "artifact",
        "model_type": manifest.architecture.model_type,
        "format_version": manifest.format_version,
        "bytes": artifact_bytes(folder),
        "bits_per_weight": manifest.size.bits_per_weight,
        "parameters": manifest.size.parameters,
        "artifact_hash": manifest.artifact_hash,
        "source_hash": manifest.provenance.source_hash,
        "layers": [
            {"layer": layer.layer, "experts": [expert_bits(expert) for expert in layer.experts]}
            for layer in manifest.experts
        ],
        "evaluation": manifest.evaluation,
        "recipe": manifest.provenance.recipe,
    }


def _checkpoint(folder: Path) -> dict[str, Any]:
    from moecompress.models.discover import discover
    from moecompress.models.source import TensorSource

    source = TensorSource.open(folder)
    layout = discover(source)
    first = next(iter(layout.moe.values()))
    return {
        "kind": "checkpoint",
        "model_type": layout.model_type,
        "bytes": sum(source.nbytes(name) for name in source.names),
        "decoder_layers": layout.layers,
        "moe_layers": len(layout.moe),
        "experts": first.experts,
        "top_k": first.top_k,
        "hidden": first.hidden,
        "width": first.width,
        "expert_tensors": dict(first.layout.names),
        "router_tensors": list(first.router),
        "shared_tensors": list(first.shared),
    }


def _layer_table(layers: list[dict[str, Any]]) -> Table:
    """One row a layer: how many experts have which bits."""
    table = Table("layer", "experts", "bits of gate/up/down (experts)", box=None)
    for layer in layers:
        counts: dict[str, int] = {}
        for expert in layer["experts"]:
            key = "/".join(f"{expert[p]:g}" for p in ("gate", "up", "down"))
            counts[key] = counts.get(key, 0) + 1
        bits = ", ".join(f"{key} ({count})" for key, count in sorted(counts.items()))
        table.add_row(str(layer["layer"]), str(len(layer["experts"])), bits)
    return table
