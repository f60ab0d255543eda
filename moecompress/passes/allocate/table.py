"""The allocators by name, for the options of passes that let one choose."""

from __future__ import annotations

from moecompress.core.errors import UsageError
from moecompress.core.registry import members, nearest
from moecompress.passes.allocate.base import Allocator


def allocators() -> dict[str, Allocator]:
    """Allocator name → allocator: the files of this folder and the entry points of `moecompress.allocators`."""
    return members("moecompress.passes.allocate", "ALLOCATOR", "moecompress.allocators")


def allocator_named(name: str) -> Allocator:
    """The allocator of that name. Raises UsageError with the nearest known one."""
    known = allocators()
    if name not in known:
        raise UsageError(f"There is no allocator {name!r}.{nearest(name, list(known))}")
    return known[name]
