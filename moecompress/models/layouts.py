"""How families lay their experts out on disk, as a table; a layout found in the wild is one more row.

The codes are those of the project's survey of transformers' families. The layout of a checkpoint is recognised from its
tensor names and shapes, never from its model_type: the same family is published per expert and fused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from moecompress.core.types import ExpertLayout

_EXPERTS = re.compile(r"(?:^|\.)experts\.")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Template:
    """One row: tensor names below the MoE block. `{e}` is the expert's index; without it the tensor is stacked."""

    code: str
    names: Mapping[str, str]
    transposed: bool = False
    interleaved: bool = False

    @property
    def stacked(self) -> bool:
        """Whether all experts of a layer lie in one tensor."""
        return not any("{e}" in name for name in self.names.values())

    def layout(self, block: str) -> ExpertLayout:
        """The layout of the block at path `block`."""
        names = {part: f"{block}.{name}" for part, name in self.names.items()}
        return ExpertLayout(names, self.stacked, self.transposed, self.interleaved)

    def shape(self, part: str, experts: int, hidden: int, width: int) -> tuple[int, ...]:
        """The shape on disk of one tensor of `part`."""
        rows, columns = {"down": (hidden, width), "gate_up": (2 * width, hidden)}.get(part, (width, hidden))
        matrix = (columns, rows) if self.transposed else (rows, columns)
        return (experts, *matrix) if self.stacked else matrix


TEMPLATES = (
    Template("C1", {part: f"experts.{{e}}.{part}_proj.weight" for part in ("gate", "up", "down")}),
    Template(
        "C2", {part: f"experts.{{e}}.{name}.weight" for part, name in (("gate", "w1"), ("up", "w3"), ("down", "w2"))}
    ),
    Template("C4", {"gate_up": "experts.gate_up_proj", "down": "experts.down_proj"}),
)


@dataclass
class ExpertBlock:
    """The expert tensors found below one path: which expert indices each part of a template was seen with."""

    path: str
    template: Template
    seen: dict[str, set[int]] = field(default_factory=dict)

    @property
    def layer(self) -> int:
        """The decoder layer the block belongs to, from its path."""
        return layer_of(self.path + ".") or 0


def layer_of(name: str) -> int | None:
    """The decoder layer in a tensor's name (`….layers.3.…` is 3), or None."""
    match = _LAYER.search(name)
    return int(match.group(1)) if match else None


def is_expert_name(name: str) -> bool:
    """Whether a name lies below a module called `experts`."""
    return bool(_EXPERTS.search(name))


def expert_name(layout: ExpertLayout, part: str, expert: int) -> str:
    """The tensor that holds `part` of one expert."""
    return layout.names[part].replace("{e}", str(expert))


def find_blocks(names: Iterable[str], templates: Iterable[Template] = TEMPLATES) -> dict[str, list[ExpertBlock]]:
    """Block path → one candidate per template that has at least one tensor there."""
    patterns = [(template, part, _pattern(name)) for template in templates for part, name in template.names.items()]
    found: dict[tuple[str, int], ExpertBlock] = {}
    for name in filter(is_expert_name, names):
        for template, part, pattern in patterns:
            if match := pattern.fullmatch(name):
                block = found.setdefault((match["block"], id(template)), ExpertBlock(match["block"], template))
                block.seen.setdefault(part, set()).add(int(match["e"]) if "e" in pattern.groupindex else 0)
    grouped: dict[str, list[ExpertBlock]] = {}
    for block in found.values():
        grouped.setdefault(block.path, []).append(block)
    return grouped


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(r"(?P<block>.+)\." + re.escape(name).replace(r"\{e\}", r"(?P<e>\d+)"))
