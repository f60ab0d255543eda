"""The recipe's reference, generated from the schema: JSON Schema for editors, Markdown tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    properties = model.model_json_schema()["properties"]
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        meaning = (field.description or "").replace("|", "or")
        yield f"| `{name}` | {_type(properties[name])} | {_default(field)} | {meaning} |"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON Schema type in words: `integer or null`, `"auto" or "text"`, `list of string`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema or "oneOf" in schema:
        parts = [_type(part) for part in schema.get("anyOf", schema.get("oneOf"))]
        return " or ".join(dict.fromkeys(part for part in parts if part != "null"))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return {"object": "mapping", None: "any"}.get(schema.get("type"), str(schema.get("type")))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see its table"
    return f"`{value}`" if value not in (None, "", ()) else ""
