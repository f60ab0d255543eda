"""The recipe's reference, generated from the schema: JSON Schema for editors, Markdown tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from moecompress.calibration.options import CalibrationOptions
from moecompress.recipe.schema import Budget, EvaluateOptions, Gates, Recipe, known_passes

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("recipe", Recipe),
    ("calibration", CalibrationOptions),
    ("evaluate", EvaluateOptions),
    ("gates", Gates),
    ("budget", Budget),
)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe with every registered pass under `passes`."""
    schema = Recipe.model_json_schema()
    entries, definitions = [], schema.setdefault("$defs", {})
    for name, definition in known_passes().items():
        options = definition.options.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(options.pop("$defs", {}))
        entry = {"type": "object", "properties": {name: {"anyOf": [options, {"type": "null"}]}}, "required": [name]}
        entries.append({**entry, "additionalProperties": False})
    schema["properties"]["passes"] = {"type": "array", "items": {"anyOf": entries}}
    return schema


def markdown() -> str:
    """The reference page's tables: one for each section of a recipe and one for each pass."""
    lines: list[str] = []
    for name, model in _SECTIONS:
        lines += [
            f"## `{name}`",
            "",
            (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " "),
            "",
            *_table(model),
            "",
        ]
    lines += ["## Passes", ""]
    for name, definition in known_passes().items():
        needs = (
            "statistics of the original model"
            if definition.needs(definition.options())
            else "no calibration by default"
        )
        lines += [
            f"### `{name}`",
            "",
            f"Stage: {definition.stage}. Needs: {needs}.",
            "",
            *_table(definition.options),
            "",
        ]
    return "\n".join(lines)


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {_type(field)} | {_default(field)} | {(field.description or '').replace('|', 'or')} |"


def _type(field: FieldInfo) -> str:
    text = (
        str(getattr(field.annotation, "__name__", field.annotation))
        if isinstance(field.annotation, type)
        else str(field.annotation)
    )
    for noise in ("typing.", "collections.abc.", "moecompress.", "<class '", "'>"):
        text = text.replace(noise, "")
    return f"`{text}`".replace("|", "or")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see its table"
    return f"`{value}`" if value not in (None, "", ()) else ""
