"""Options that several commands share, declared once: how an artifact is opened, and how a token is chosen.

A command takes a parameter of one of these classes, and `with_flags` turns it into one option per field. A flag that is
not given leaves the engine's own default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from moecompress.runtime.engine import Engine
    from moecompress.runtime.loading import LoadOptions, Prepared


@dataclass(frozen=True)
class EngineFlags:
    """How an artifact is opened."""

    memory: Annotated[str | None, typer.Option(help="Hard cap on resident memory, such as 600MiB.")] = None
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of context to reserve memory for.")] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads; default: all cores.")] = None
    lanes: Annotated[int | None, typer.Option(min=1, help="Threads that read experts.")] = None
    policy: Annotated[str | None, typer.Option(help="Which expert leaves memory: lru, lfu, edgemoe, expected.")] = None
    speculation: Annotated[str | None, typer.Option(help="Read ahead of what is wanted: off, auto, on.")] = None
    predictor: Annotated[str | None, typer.Option(help="What is read ahead: router, popularity, edgemoe.")] = None
    overlap: Annotated[bool | None, typer.Option(help="Compute while experts are read.")] = None
    kv: Annotated[str | None, typer.Option(help="Key-value cache: int16, or int8 (smaller, changes the text).")] = None
    io: Annotated[str | None, typer.Option(help="Reading: automatic, direct (past the page cache), buffered.")] = None

    def open(self, artifact: Path) -> Engine:
        """The engine on an artifact."""
        from moecompress.runtime.engine import Engine

        return Engine.open(artifact, **_given(self))

    def options(self) -> LoadOptions:
        """The same as options of loading."""
        from moecompress.runtime.loading import LoadOptions

        return LoadOptions.of(**_given(self))

    def prepare(self, artifact: Path) -> Prepared:
        """What `open` would load, with its memory plan."""
        from moecompress.runtime.engine import Engine

        return Engine.prepare(artifact, **_given(self))


@dataclass(frozen=True)
class SamplingFlags:
    """How a token is chosen, and when a text ends."""

    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of a text.")] = None
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus: smallest set with this probability.")] = 1.0
    top_k: Annotated[int, typer.Option(min=0, help="Only the k most likely tokens; 0 is all.")] = 0
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same text.")] = 0
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the generation; may be repeated.")] = None

    def request(self) -> dict[str, Any]:
        """The flags that were given, as keywords of `Engine.generate`."""
        return _given(self)


def _given(flags: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(flags).items() if value is not None}


def with_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with each parameter of a dataclass type replaced by one keyword per field."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in groups:
            parameters += _parameters(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))

    @wraps(function)
    def command(**given: Any) -> Any:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return function(**given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameters(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(kind)
    ]
