"""What discovery cannot read off tensor names and shapes. A family file defines `FAMILY = Family()`, changed if needed.

A family is supported when its file exists; its test is `moecompress.testing.family_checks.check_family` on a
checkpoint of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moecompress.core.errors import UnsupportedModelError
from moecompress.core.registry import members
from moecompress.core.types import Activation


def default_activation(config: Any) -> Activation:
    """`act(gate) * up` with the config's `hidden_act`."""
    return Activation(kind=getattr(config, "hidden_act", "silu"))


@dataclass(frozen=True)
class Family:
    """The facts of one model_type; `config` arguments are transformers config objects of the text model.

    `refusal(config)` is a reason not to handle a particular configuration, or None.
    """

    activation: Callable[[Any], Activation] = default_activation
    groups: Callable[[Any], int] = lambda config: int(getattr(config, "n_group", None) or 1)
    refusal: Callable[[Any], str | None] = lambda config: None


def families() -> dict[str, Family]:
    """model_type → family, from this folder and the entry-point group `moecompress.families`."""
    return members("moecompress.models.families", "FAMILY", "moecompress.families")


def family_of(model_type: str) -> Family:
    """The family of a model_type. Raises UnsupportedModelError naming those that are supported."""
    known = families()
    if model_type not in known:
        raise UnsupportedModelError(
            f"Models of the family {model_type!r} are not supported: nobody has checked this project's forward pass of "
            f"them against transformers. Supported: {', '.join(sorted(known))}."
        )
    return known[model_type]
