"""How often and how strongly the router uses each expert on the calibration text: `usage`.

count: tokens routed to it; raw: sum of its softmax probabilities over them, before any normalisation; used: sum of the
weights its output really got; tokens: all tokens of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moecompress.core.errors import CalibrationError
from moecompress.passes.base import LayerWeights, PassContext
from moecompress.passes.sensitivity.base import Probe, Sensitivity

PROBE: Probe = {"kind": "usage"}
NEEDS = frozenset({"count", "wsum_raw", "wsum_used"})


def measure(layer: LayerWeights, probes: Sequence[Probe], context: PassContext) -> list[Any]:
    """One answer of four names for each probe."""
    statistics = context.statistics
    if statistics is None:
        raise CalibrationError(
            f"The usage of layer {layer.index}'s experts needs calibration statistics; there are none."
        )
    answer = {
        "count": statistics.count.tolist(),
        "raw": statistics.wsum_raw.tolist(),
        "used": statistics.wsum_used.tolist(),
        "tokens": statistics.tokens,
    }
    return [answer for _ in probes]


SENSITIVITY = Sensitivity(measure)
