"""Finds the members of a kind (codecs, passes, allocators, …) by scanning a folder, plus installed entry points.

A member is a module of the package that defines a given attribute; its name is the module's path below the package,
with dots: `passes/quantize/experts.py` is `quantize.experts`. Adding a member is adding a file. Import errors are
raised, never swallowed; modules whose name starts with `_`, and `base`, are no members.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from moecompress.core.errors import MoecompressError


def _raise(name: str) -> None:
    raise


def _modules(package: str) -> list[str]:
    root = importlib.import_module(package)
    found = []
    for info in pkgutil.walk_packages(root.__path__, prefix=package + ".", onerror=_raise):
        parts = info.name[len(package) + 1 :].split(".")
        if not info.ispkg and all(map(_is_member, parts)):
            found.append(info.name)
    return sorted(found)


def _is_member(module: str) -> bool:
    return not module.startswith("_") and module != "base"


@cache
def names(package: str) -> tuple[str, ...]:
    """Names of the modules right inside a package that can be members, sorted; none is imported."""
    root = importlib.import_module(package)
    return tuple(info.name for info in pkgutil.iter_modules(root.__path__) if not info.ispkg and _is_member(info.name))


@cache
def member(name: str, package: str, attribute: str, group: str | None = None) -> Any:
    """The member of one name, None when there is none; no other built-in is imported when it is one."""
    if name in names(package):
        module = importlib.import_module(f"{package}.{name}")
        if hasattr(module, attribute):
            return getattr(module, attribute)
    return members(package, attribute, group).get(name)


@cache
def members(package: str, attribute: str, group: str | None = None) -> dict[str, Any]:
    """Name → value of `attribute` for every member module of `package`, then of entry-point group `group`."""
    found: dict[str, Any] = {}
    for name in _modules(package):
        module = importlib.import_module(name)
        if hasattr(module, attribute):
            found[name[len(package) + 1 :]] = getattr(module, attribute)
    for entry in _entry_points(group) if group else ():
        if entry.name in found:
            raise MoecompressError(
                f"Entry point {entry.name!r} of {group!r} hides the built-in of that name; rename it."
            )
        found[entry.name] = entry.load()
    return found


def _entry_points(group: str) -> Any:
    from importlib.metadata import entry_points  # reads every installed distribution: only when it must

    return entry_points(group=group)


def nearest(name: str, known: list[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, or the list of what is allowed."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else f" Allowed: {', '.join(sorted(known))}."
