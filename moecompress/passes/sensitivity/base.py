"""The contract of a sensitivity: plain probes of one layer's experts in, plain answers out.

A file defines `SENSITIVITY = Sensitivity(...)`; its name, the file's, is the `kind` of its probes. An answer holds, by
name, one figure for each expert of the layer. It depends on the layer's weights and statistics and on the probe alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moecompress.core.registry import members
from moecompress.passes.base import LayerWeights, PassContext

Probe = Mapping[str, Any]


@dataclass(frozen=True)
class Sensitivity:
    """measure(layer, probes, context) answers several probes of this kind in one sweep over the layer."""

    measure: Callable[[LayerWeights, Sequence[Probe], PassContext], list[Any]]


def sensitivities() -> dict[str, Sensitivity]:
    """Kind → sensitivity."""
    return members("moecompress.passes.sensitivity", "SENSITIVITY", "moecompress.sensitivities")


def measure(layer: LayerWeights, probes: Sequence[Probe], context: PassContext) -> list[Any]:
    """The answers to probes of any kinds, in their order."""
    answers: list[Any] = [None] * len(probes)
    for kind in dict.fromkeys(probe["kind"] for probe in probes):
        places = [index for index, probe in enumerate(probes) if probe["kind"] == kind]
        found = sensitivities()[kind].measure(layer, [probes[index] for index in places], context)
        for index, answer in zip(places, found, strict=True):
            answers[index] = answer
    return answers
