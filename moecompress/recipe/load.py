"""From a recipe file to a checked recipe: `extends`, `--set`, schema, pass options, order. Errors name the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from moecompress.core.errors import MoecompressError, RecipeError
from moecompress.core.registry import nearest
from moecompress.recipe.located import KeyPath, Lines, read_yaml
from moecompress.recipe.order import check_order
from moecompress.recipe.overrides import apply_override
from moecompress.recipe.schema import PassStep, Recipe, known_passes

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that passed every check, its steps, and its resolved plain values (what the artifact records)."""

    recipe: Recipe
    steps: tuple[PassStep, ...]
    resolved: Mapping[str, Any]
    path: Path


def load_recipe(path: Path, overrides: Sequence[str] = (), model: str | None = None) -> LoadedRecipe:
    """The recipe in `path` with `--set` overrides and the model of the command line. Raises RecipeError."""
    values, lines = _with_bases(path, ())
    for text in overrides:
        apply_override(values, lines, text)
    if model is not None:
        values["model"] = model
    recipe = _validate(Recipe, values, (), lines)
    steps = tuple(_step(entry, ("passes", i), lines) for i, entry in enumerate(recipe.passes))
    check_order([step.name for step in steps], [step.definition for step in steps], lines)
    return LoadedRecipe(recipe, steps, _resolved(recipe, steps), path)


def _with_bases(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Lines]:
    """The values of `path` over those it extends, later ones winning; mappings merge, everything else is replaced."""
    if path.resolve() in chain:
        raise RecipeError(f"{path}: extends itself through {', '.join(str(p) for p in chain)}.")
    values, lines = read_yaml(path)
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path}:1: a recipe is a mapping with `version` and `passes`; this is {type(values).__name__}."
        )
    bases = values.pop("extends", [])
    merged: dict[str, Any] = {}
    places = Lines()
    for base in [bases] if isinstance(bases, str) else bases:
        file = (path.parent / base).with_suffix(".yaml")
        if not file.is_file():
            raise RecipeError(f"{lines.at(('extends',))}: extends {base!r}, but {file} does not exist.")
        base_values, base_lines = _with_bases(file, (*chain, path.resolve()))
        _merge(merged, base_values, (), places, base_lines)
    _merge(merged, values, (), places, lines)
    return merged, places


def _merge(into: dict[str, Any], values: dict[str, Any], path: KeyPath, places: Lines, new: Lines) -> None:
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, here, places, new)
        else:
            into[key] = value
            places.places = {p: v for p, v in places.places.items() if p[: len(here)] != here}
            places.places.update(new.moved(here, here))


def _step(entry: Mapping[str, Mapping[str, Any] | None], path: KeyPath, lines: Lines) -> PassStep:
    if len(entry) != 1:
        raise RecipeError(
            f"{lines.at(path)}: an entry of passes is one pass name with its options, "
            f"but this has {len(entry)} keys: {', '.join(entry) or 'none'}. Start each pass with its own `- `."
        )
    ((name, options),) = entry.items()
    known = known_passes()
    if name not in known:
        raise RecipeError(f"{lines.at((*path, name))}: there is no pass {name!r}.{nearest(name, list(known))}")
    definition = known[name]
    here = (*path, name)
    return PassStep(name, definition, _validate(definition.options, dict(options or {}), here, lines), here, lines)


def _validate(model: type[Model], values: Any, path: KeyPath, lines: Lines) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_sentence(model, error.errors()[0], path, lines)) from error
    except MoecompressError as error:
        raise RecipeError(f"{lines.at(path)}: {error}") from error


def _sentence(model: type[BaseModel], detail: ErrorDetails, path: KeyPath, lines: Lines) -> str:
    """One validation error as `file:line: key: what is wrong and what is allowed`."""
    location = tuple(part for part in detail["loc"] if not _is_type_tag(part))
    place = lines.at((*path, *location))
    name = ".".join(str(part) for part in (*path, *location))
    if detail["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"{place}: unknown key {name!r}.{nearest(str(location[-1]), known)}"
    if detail["type"] == "missing":
        return f"{place}: the key {name!r} is missing."
    return f"{place}: {name}: {detail['msg']} (it is {detail['input']!r})."


def _is_type_tag(part: Any) -> bool:
    """Whether a part of a pydantic location names a branch of a union and not a key of the recipe."""
    return isinstance(part, str) and (
        part[:1].isupper() or "[" in part or part in {"int", "str", "float", "constrained-str"}
    )


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        candidates = [field.annotation, *get_args(field.annotation)] if field else []
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            break
        model = models[0]
    return list(model.model_fields)


def _resolved(recipe: Recipe, steps: Sequence[PassStep]) -> dict[str, Any]:
    """Every value the run depends on, defaults written out."""
    values = recipe.model_dump(mode="json")
    values["passes"] = [{step.name: step.options.model_dump(mode="json")} for step in steps]
    return values
