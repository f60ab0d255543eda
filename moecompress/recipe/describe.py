"""The recipe's reference, generated from the schema: JSON Schema for editors, Markdown tables for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from moecompress.calibration.options import CalibrationOptions
from moecompress.passes.allocate.options import AllocationOptions, Floors
from moecompress.passes.allocate.table import allocators
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
    return "\n".join([*lines, *_allocators()])


def _allocators() -> Iterator[str]:
    """A table of what all allocators share, then for each its purpose and its own keys."""
    yield from (
        "## Allocators",
        "",
        "`bits: {allocate: NAME, …}` of `quantize.experts` gives every expert bits of its own.",
    )
    yield from ("One budget is given: `average` or `size` (`edgemoe`: or `tolerance`). Keys of all allocators:", "")
    yield from _table(AllocationOptions)
    yield from ("", "### Floors", "", (Floors.__doc__ or "").strip(), "", *_table(Floors), "")
    for name, allocator in allocators().items():
        about = (sys.modules[allocator.choose.__module__].__doc__ or "").split("\n\n")[0].replace("\n", " ")
        rows = list(_table(allocator.options, AllocationOptions))
        yield from (f"### `{name}`", "", about, "", *(rows if len(rows) > 2 else ["No keys of its own."]), "")


def _table(model: type[BaseModel], known: type[BaseModel] | None = None) -> Iterator[str]:
    """The keys of a model, but for those that are just like `known`'s."""
    properties = model.model_json_schema()["properties"]
    shared = known.model_fields if known else {}
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        if name in shared and (name == "allocate" or repr(shared[name].default) == repr(field.default)):
            continue
        meaning = (field.description or "").replace("|", "or")
        yield f"| `{name}` | {_type(properties[name])} | {_default(field)} | {meaning} |"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON Schema type in words: `integer or null`, `"auto" or "text"`, `list of string`."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[1]
        return "allocator" if name in {found.options.__name__ for found in allocators().values()} else name
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
