"""What running the planned artifact will take, from planned sizes alone: its smallest and its resident budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moecompress.artifact.records import Planned
from moecompress.artifact.sizes import place_experts, place_trunk
from moecompress.core.errors import UnsupportedModelError
from moecompress.core.types import Projection
from moecompress.runtime.footprint import Footprint
from moecompress.runtime.loading import LoadOptions, demand
from moecompress.runtime.tables import make_tables

Trunk = Mapping[str, Planned]
Experts = Mapping[int, Sequence[Mapping[Projection, Planned]]]


@dataclass(frozen=True)
class DeviceNeeds:
    """Memory of the native engine without the interpreter, for one context. `token_bytes`: weights touched per token.

    `floor_bytes` is the least it runs in, `resident_bytes` keeps every expert, `token_set_bytes` are one token's.
    """

    context: int
    floor_bytes: int
    resident_bytes: int
    token_set_bytes: int
    token_bytes: int


def device_needs(model_type: str, config: Mapping[str, Any], trunk: Trunk, experts: Experts) -> DeviceNeeds | None:
    """The needs of an artifact with these weights; None when the native engine does not run its family."""
    weights = [*trunk.values(), *[planned for layer in experts.values() for one in layer for planned in one.values()]]
    specs = {spec.key: spec for spec, _ in weights}
    layers = [place_experts(index, experts[index])[1] for index in sorted(experts)]
    try:
        tables = make_tables(model_type, config, place_trunk(trunk)[1], layers, specs)
    except UnsupportedModelError:
        return None
    asked = replace(demand(tables, LoadOptions.of()), interpreter=0, peak=0)
    footprint = Footprint.of(tables)
    return DeviceNeeds(asked.context, asked.floor, asked.resident, footprint.record_bytes, footprint.token_bytes)
