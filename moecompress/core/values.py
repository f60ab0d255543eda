"""Plain JSON values as frozen dataclasses, and back. Strict: no key too many or too few, no type but the declared one.

A field's type is a dataclass, int, float, str, bool, Any, `Literal`, `X | None`, `tuple[X, ...]`, `list[X]` or
`dict[str, X]` of these; `Annotated[X, Between(0, 9)]` and `Annotated[str, Matches("[a-z]+")]` narrow it further.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
Read = Callable[[Any], Any]


class Mismatch(ValueError):
    """A value that is not what its place declares: `words` say what is allowed, `place` is a path such as a.0.b."""

    def __init__(self, words: str, value: Any) -> None:
        super().__init__(words)
        self.words, self.value = words, value
        self.path: list[str] = []

    @property
    def place(self) -> str:
        """Keys and indices from the outermost value to the wrong one, joined by dots."""
        return ".".join(reversed(self.path))

    def under(self, key: object) -> Mismatch:
        """The same, seen from the value that holds it at `key`."""
        self.path.append(str(key))
        return self


@dataclass(frozen=True)
class Between:
    """A whole number from `low` to `high`, both allowed."""

    low: int
    high: int

    def __call__(self, value: int) -> int:
        """The value. Raises Mismatch."""
        if not self.low <= value <= self.high:
            raise Mismatch(f"must lie between {self.low} and {self.high}", value)
        return value


@dataclass(frozen=True)
class Matches:
    """A text that a regular expression describes from its first to its last character."""

    pattern: str

    def __call__(self, value: str) -> str:
        """The value. Raises Mismatch."""
        if re.fullmatch(self.pattern, value) is None:
            raise Mismatch(f"must match {self.pattern}", value)
        return value


def read(kind: Callable[..., T], value: Any) -> T:
    """The instance of a dataclass that a plain mapping describes. Raises Mismatch."""
    result: T = _record(kind)(value)
    return result


def check(instance: Any) -> None:
    """Raise Mismatch unless every field of a dataclass instance, however it was made, holds what it declares."""
    kind: Any = type(instance)
    for name, reader in _readers(kind).items():
        try:
            reader(getattr(instance, name))
        except Mismatch as mismatch:
            raise mismatch.under(name) from None


def plain(value: Any) -> Any:
    """Mappings, lists, texts, numbers, booleans and None for a value made of these and dataclasses."""
    kind: Any = type(value)
    if _is_record(kind):
        return {name: plain(getattr(value, name)) for name in _readers(kind)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _is_record(kind: Any) -> bool:
    return is_dataclass(kind)


@cache
def _readers(kind: Any) -> dict[str, Read]:
    """Field → reader, in the order of declaration."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _reader(hints[field.name]) for field in fields(kind)}


@cache
def _record(kind: Any) -> Read:
    readers = _readers(kind)
    needed = {field.name for field in fields(kind) if not _optional(field)}

    def read_record(value: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("must be an object", value)
        if value.keys() != readers.keys():
            _check_keys(value, readers, needed)
        found = {}
        for key, item in value.items():
            try:
                found[key] = readers[key](item)
            except Mismatch as mismatch:
                raise mismatch.under(key) from None
        return kind(**found)

    return read_record


def _optional(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _check_keys(value: dict[str, Any], known: Mapping[str, Read], needed: set[str]) -> None:
    for key in value:
        if key not in known:
            raise Mismatch(f"is not one of {', '.join(known)}", value[key]).under(key)
    for key in known:
        if key in needed and key not in value:
            raise Mismatch("is missing", value).under(key)


def _reader(kind: Any) -> Read:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _narrowed(_reader(arguments[0]), arguments[1:])
    if origin is Literal:
        return _literal(arguments)
    if origin is UnionType:
        return _nullable(*[_reader(argument) for argument in arguments if argument is not NoneType])
    if origin is tuple or origin is list:
        return _sequence(origin, _reader(arguments[0]))
    if origin is dict:
        return _mapping(_reader(arguments[0]), _reader(arguments[1]))
    if _is_record(kind):
        return _record(kind)
    return _anything if kind is Any else _exactly(kind)


def _anything(value: Any) -> Any:
    return value


_WORDS: dict[type, str] = {int: "a whole number", str: "a text", bool: "true or false"}
_LARGEST = sys.float_info.max


def _exactly(kind: type) -> Read:
    if kind is float:
        return _finite

    def read_exactly(value: Any) -> Any:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise Mismatch(f"must be {_WORDS[kind]}", value)
        return value

    return read_exactly


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:
        raise Mismatch("must be a finite number", value)
    return float(value)


def _narrowed(reader: Read, checks: tuple[Any, ...]) -> Read:
    def read_narrowed(value: Any) -> Any:
        value = reader(value)
        for narrow in checks:
            narrow(value)
        return value

    return read_narrowed


def _literal(allowed: tuple[Any, ...]) -> Read:
    def read_literal(value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            raise Mismatch(f"must be one of {', '.join(map(repr, allowed))}", value)
        return value

    return read_literal


def _nullable(reader: Read) -> Read:
    return lambda value: None if value is None else reader(value)


def _sequence(kind: type, reader: Read) -> Read:
    def read_sequence(value: Any) -> Any:
        if type(value) not in (list, tuple):
            raise Mismatch("must be a list", value)
        found = []
        for index, item in enumerate(value):
            try:
                found.append(reader(item))
            except Mismatch as mismatch:
                raise mismatch.under(index) from None
        return kind(found)

    return read_sequence


def _mapping(key_reader: Read, reader: Read) -> Read:
    def read_mapping(value: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("must be an object", value)
        found = {}
        for key, item in value.items():
            try:
                found[key_reader(key)] = reader(item)
            except Mismatch as mismatch:
                raise mismatch.under(key) from None
        return found

    return read_mapping
