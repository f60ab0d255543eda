"""From options and shapes to candidates: exact record bytes of every assignment, floors applied, the limit counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moecompress.artifact.records import place_record
from moecompress.artifact.sizes import place_experts
from moecompress.codecs.affine import AffineSpec
from moecompress.core.errors import OptionError
from moecompress.core.types import PROJECTIONS, MoeLayer, Projection
from moecompress.core.units import format_size
from moecompress.passes.allocate.base import Assignment, Candidates, Integers
from moecompress.passes.allocate.options import AllocationOptions, Floors
from moecompress.passes.quantize._options import GroupSize


def candidates_of(
    options: AllocationOptions,
    grid: Sequence[Assignment],
    group_size: GroupSize,
    layers: Mapping[int, MoeLayer],
    method: Mapping[str, Any],
) -> Candidates:
    """The candidates of all MoE layers. Raises OptionError for floors or budgets that the choices cannot meet."""
    levels = options.levels(group_size)
    order = sorted(layers)
    assignments = {
        index: _raised(grid, levels, options.floors, position, len(order)) for position, index in enumerate(order)
    }
    stored = {index: _record_bytes(layers[index], assignments[index], levels) for index in order}
    cost = (
        stored
        if options.size is not None or options.count == "effective"
        else {index: _bare_bits(layers[index], assignments[index], levels) for index in order}
    )
    counts = [layers[index].experts for index in order]
    found = Candidates(
        layers=layers,
        levels=levels,
        assignments=assignments,
        layer=np.repeat(np.array(order, np.int64), counts),
        expert=np.concatenate([np.arange(count, dtype=np.int64) for count in counts]),
        cost=np.concatenate([np.tile(cost[index], (count, 1)) for index, count in zip(order, counts, strict=True)]),
        bytes=np.concatenate([np.tile(stored[index], (count, 1)) for index, count in zip(order, counts, strict=True)]),
        limit=None,
        method=method,
    )
    return _limited(found, options)


def planned(
    moe: MoeLayer, row: Integers, levels: Sequence[AffineSpec]
) -> dict[Projection, tuple[AffineSpec, tuple[int, ...]]]:
    """Spec and shape of each projection an expert has, for one assignment."""
    present = [p for p in PROJECTIONS if p != "gate" or moe.activation.gated]
    return {p: (levels[int(row[PROJECTIONS.index(p)])], moe.projection_shape(p)) for p in present}


def _raised(
    grid: Sequence[Assignment], levels: Sequence[AffineSpec], floors: Floors, position: int, layers: int
) -> Integers:
    """The grid with every level that lies below its floor lifted to the smallest level that does not."""
    lifted = np.array(grid, np.int64)
    for column, projection in enumerate(PROJECTIONS):
        least = floors.least(projection, position, layers)
        allowed = [level for level, spec in enumerate(levels) if spec.bits >= least]
        if not allowed:
            offered = ", ".join(str(spec.bits) for spec in levels)
            raise OptionError(
                f"the floor of {projection} in MoE layer {position} is {least} bits, but the choices are {offered}; "
                "offer a larger choice or lower the floor",
                ("bits", "floors"),
            )
        for row in lifted:
            row[column] = min((level for level in allowed if level >= row[column]), default=allowed[-1])
    return lifted


def _record_bytes(moe: MoeLayer, assignments: Integers, levels: Sequence[AffineSpec]) -> Integers:
    return np.array([place_record(planned(moe, row, levels), 0).bytes for row in assignments], np.int64)


def _bare_bits(moe: MoeLayer, assignments: Integers, levels: Sequence[AffineSpec]) -> Integers:
    return np.array(
        [
            sum(spec.bits * int(np.prod(shape)) for spec, shape in planned(moe, row, levels).values())
            for row in assignments
        ],
        np.int64,
    )


def header_bytes(candidates: Candidates) -> int:
    """What the headers of all expert files take when every expert has its largest record: an upper bound."""
    total = 0
    for index, moe in candidates.layers.items():
        rows = candidates.assignments[index]
        largest = int(candidates.bytes[candidates.of(index)[0]].argmax())
        total += len(place_experts(index, [planned(moe, rows[largest], candidates.levels)] * moe.experts)[0])
    return total


def _limited(candidates: Candidates, options: AllocationOptions) -> Candidates:
    """The same with the limit of its budget. Raises OptionError when even the smallest choices exceed it."""
    from dataclasses import replace

    least = int(candidates.cost.min(axis=1).sum())
    weights = int(candidates.weights.sum())
    if options.size is not None:
        headers = header_bytes(candidates)
        if least + headers > options.size:
            raise OptionError(
                f"size is {format_size(options.size)} ({options.size} bytes), but the experts take at least "
                f"{least + headers} bytes with the smallest of the choices; offer a smaller choice or raise it",
                ("bits", "size"),
            )
        return replace(candidates, limit=options.size - headers)
    if options.average is None:
        return candidates
    unit = 8 if options.count == "effective" else 1
    limit = int(options.average * weights / unit)
    if least > limit:
        raise OptionError(
            f"average is {options.average:g} {options.count} bits, but the experts take at least "
            f"{unit * least / weights:.4g} with the smallest of the choices; offer a smaller choice or raise it",
            ("bits", "average"),
        )
    return replace(candidates, limit=limit)
