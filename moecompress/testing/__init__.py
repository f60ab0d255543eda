"""Conformance suites and tiny real models, for this project's tests and for third parties.

    from moecompress.testing import check_allocator, check_codec, check_family, check_pass, check_policy

Each is imported when it is asked for, so that checking a codec needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_SUITES = {
    "check_allocator": "allocator_checks",
    "check_codec": "codec_checks",
    "check_pass": "pass_checks",
    "check_family": "family_checks",
    "check_policy": "policy_checks",
}

__all__ = ["check_allocator", "check_codec", "check_family", "check_pass", "check_policy"]


def __getattr__(name: str) -> Any:
    if name not in _SUITES:
        raise AttributeError(f"moecompress.testing has no {name!r}; it offers {', '.join(sorted(_SUITES))}.")
    return getattr(import_module(f"moecompress.testing.{_SUITES[name]}"), name)
