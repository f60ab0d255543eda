"""Chat templates as Hugging Face models carry them, rendered in jinja2's immutable sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moecompress.core.errors import RequestError


def render(template: str, values: Mapping[str, Any]) -> str:
    """The text of a template. Raises RequestError when it cannot be compiled or refuses its values."""
    try:
        return _environment().from_string(template).render(**values)
    except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise RequestError(f"The model's chat template refused the conversation: {error}.") from error


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
