"""Typed reading of config.json: a missing, wrong or unsupported value is an error that names the family and the key."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from moecompress.core.errors import UnsupportedModelError

_NO_DEFAULT: Any = object()
_MOST = 2**31 - 1


class Config:
    """The values of one config.json. Readers take the first of the keys that is present; `null` counts as absent."""

    def __init__(self, model_type: str, values: Mapping[str, Any]) -> None:
        self.model_type = model_type
        self._values = values

    def has(self, key: str) -> bool:
        """Whether the key is there, be it as `null`."""
        return key in self._values

    def raw(self, *keys: str) -> Any:
        """The first value that is present, or None."""
        return next((self._values[key] for key in keys if self._values.get(key) is not None), None)

    def integer(self, *keys: str, default: int = _NO_DEFAULT, least: int = 0, most: int = _MOST) -> int:
        """A whole number from `least` to `most`."""
        value = self._value(keys, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._refused(keys[0], value, f"a whole number from {least} to {most}")
        return value

    def number(self, *keys: str, default: float = _NO_DEFAULT) -> float:
        """A finite number above 0, or the default."""
        value = self._value(keys, default)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
        if not usable and value is not default:
            raise self._refused(keys[0], value, "a number above 0")
        return float(value)

    def flag(self, *keys: str, default: bool = _NO_DEFAULT) -> bool:
        """True or false."""
        value = self._value(keys, default)
        if not isinstance(value, bool):
            raise self._refused(keys[0], value, "true or false")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; absent is empty."""
        value = self._value((key,), [])
        if not isinstance(value, list) or any(isinstance(item, bool) or not isinstance(item, int) for item in value):
            raise self._refused(key, value, "a list of whole numbers")
        return tuple(value)

    def only(self, key: str, allowed: Any, default: Any = None) -> None:
        """Refuse every value of `key` but the one the forward pass computes with."""
        value = self._value((key,), default)
        if value != allowed:
            raise self._refused(key, value, repr(allowed))

    def _value(self, keys: tuple[str, ...], default: Any) -> Any:
        value = self.raw(*keys)
        if value is None and default is _NO_DEFAULT:
            raise UnsupportedModelError(f"The config.json of this {self.model_type} model lacks {keys[0]!r}.")
        return default if value is None else value

    def _refused(self, key: str, value: Any, allowed: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"The config.json of this {self.model_type} model has {key} = {str(value)[:100]}; "
            f"the native engine handles {allowed} here."
        )
