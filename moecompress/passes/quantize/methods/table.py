"""The methods by name, for the options of every quantizing pass."""

from __future__ import annotations

from moecompress.core.errors import UsageError
from moecompress.core.registry import members, nearest
from moecompress.passes.quantize.methods.base import Method


def methods() -> dict[str, Method]:
    """Method name → method: the files of this folder and the entry points of `moecompress.methods`."""
    return members("moecompress.passes.quantize.methods", "METHOD", "moecompress.methods")


def method_named(name: str) -> Method:
    """The method of that name. Raises UsageError with the nearest known one."""
    known = methods()
    if name not in known:
        raise UsageError(f"There is no quantization method {name!r}.{nearest(name, list(known))}")
    return known[name]
