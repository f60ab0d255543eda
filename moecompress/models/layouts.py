"""How families lay their experts out on disk, as a table; a layout found in the wild is one more row.

The codes are those of the project's survey of transformers' families. The layout of a checkpoint is recognised from its
tensor names and shapes, never from its model_type: the same family is published per expert and fused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from moecompress.core.errors import UsageError
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


def layer_of(name: str) -> int | None:
    """The decoder layer in a tensor's name (`….layers.3.…` is 3), or None."""
    match = _LAYER.search(name)
    return int(match.group(1)) if match else None


def template_of(code: str) -> Template:
    """The row with this code, for example C4. Raises UsageError for an unknown one."""
    for template in TEMPLATES:
        if template.code == code:
            return template
    known = ", ".join(template.code for template in TEMPLATES)
    raise UsageError(f"There is no expert layout {code!r}. Known: {known}.")


def is_expert_name(name: str) -> bool:
    """Whether a name lies below a module called `experts`."""
    return bool(_EXPERTS.search(name))


def expert_name(layout: ExpertLayout, part: str, expert: int) -> str:
    """The tensor that holds `part` of one expert."""
    return layout.names[part].replace("{e}", str(expert))


def expert_names(layout: ExpertLayout, experts: int) -> tuple[str, ...]:
    """The tensors that hold `experts` experts, expert by expert; a stacked tensor once."""
    indices = range(1 if layout.stacked else experts)
    return tuple(expert_name(layout, part, expert) for expert in indices for part in layout.names)


def find_blocks(names: Iterable[str], templates: Iterable[Template] = TEMPLATES) -> dict[str, list[Template]]:
    """Path of each MoE block → the templates of which at least one tensor lies there, in the table's order."""
    table = list(templates)
    patterns = [(row, _pattern(name)) for row, template in enumerate(table) for name in template.names.values()]
    rows: dict[str, set[int]] = {}
    for name in filter(is_expert_name, names):
        for row, pattern in patterns:
            if match := pattern.fullmatch(name):
                rows.setdefault(match["block"], set()).add(row)
    return {path: [table[row] for row in sorted(found)] for path, found in rows.items()}


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(r"(?P<block>.+)\." + re.escape(name).replace(r"\{e\}", r"\d+"))
