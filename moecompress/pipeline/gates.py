"""Quality gates: limits of the recipe held against the measured evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moecompress.core.errors import GateError
from moecompress.recipe.schema import Gates


def missed_gates(gates: Gates, measured: Mapping[str, Any]) -> list[str]:
    """One sentence for each gate that the figures miss."""
    original, artifact = measured["original"], measured["artifact"]
    ratio = artifact["perplexity"] / original["perplexity"]
    missed = []
    if gates.perplexity_ratio is not None and ratio > gates.perplexity_ratio:
        missed.append(f"perplexity is {ratio:.4f} times the original's, the gate is {gates.perplexity_ratio}")
    if gates.kl_mean is not None and artifact["kl_mean"] > gates.kl_mean:
        missed.append(f"mean KL divergence is {artifact['kl_mean']:.4f}, the gate is {gates.kl_mean}")
    if gates.top1_agreement is not None and artifact["top1_agreement"] < gates.top1_agreement:
        missed.append(f"top-1 agreement is {artifact['top1_agreement']:.4f}, the gate is {gates.top1_agreement}")
    return missed


def check_gates(gates: Gates, measured: Mapping[str, Any], artifact: Path) -> None:
    """Raises GateError naming every gate missed. The artifact stays where it is, its figures in its manifest."""
    missed = missed_gates(gates, measured)
    if missed:
        raise GateError(f"The artifact at {artifact} is kept, but it misses its gates: {'; '.join(missed)}.")
