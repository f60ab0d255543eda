"""Chat templates as Hugging Face models carry them, rendered in a bounded subset of jinja2.

A template comes with the model and is not trusted. The immutable sandbox keeps it from Python's objects; here its steps
(turns of a loop, calls) are counted, and what makes large values at one stroke is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moecompress.core.errors import RequestError

_MOST_STEPS = 100_000
_LONGEST = 1 << 24  # characters or elements that an operator may make
_LARGEST = 1 << 16  # number given to a filter or function: a width, a count of parts
_MOST_BITS = 4096  # of a product of numbers
_WIDE = re.compile(r"[0-9]{4}|\*")  # in a format: a width nobody prints


def render(template: str, values: Mapping[str, Any]) -> str:
    """The text of a template. Raises RequestError when it cannot be compiled, refuses its values or does too much."""
    environment = _Subset()
    try:
        return environment.from_string(environment.counted(template)).render(**values)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
        raise RequestError(f"The model's chat template refused the conversation: {str(error)[:300]}.") from error


class _Subset(ImmutableSandboxedEnvironment):
    """One rendering."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self._steps = 0
        self.filters = {name: _bounded(function) for name, function in self.filters.items()}
        self.filters["tojson"] = _bounded(_to_json)
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _now

    def counted(self, source: str) -> nodes.Template:
        """The parsed template; its loops count their turns, and its `~` is bounded as `+` is."""
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            turns = nodes.EnvironmentAttribute("turns", lineno=loop.lineno)
            loop.iter = nodes.Call(turns, [loop.iter], [], None, None, lineno=loop.lineno)
        for text in tree.find_all(nodes.Concat):
            joined = nodes.EnvironmentAttribute("joined", lineno=text.lineno)
            text.nodes = [nodes.Call(joined, text.nodes, [], None, None, lineno=text.lineno)]
        tree.set_environment(self)
        return tree

    def turns(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, each of which is a step."""
        for item in items:
            self._step()
            yield item

    def joined(self, *values: Any) -> str:
        """The operator `~`."""
        texts = [str(value) for value in values]
        _check_length(sum(len(text) for text in texts))
        return "".join(texts)

    def call(self, context: Context, function: Any, /, *values: Any, **named: Any) -> Any:
        """Every call of a function, method or macro."""
        self._step()
        _check_numbers(values, named)
        return super().call(context, function, *values, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The methods `format` and `format_map` of texts."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make much of little."""
        if operator == "**":
            raise TemplateError("it computes a power")
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        if operator == "*":
            _check_product(left, right)
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check_length(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise TemplateError(f"it takes more than {_MOST_STEPS} steps")


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose whole-number arguments are small."""

    @wraps(function)  # keeps jinja's marks, which say whether the first argument is the context
    def bounded(*values: Any, **named: Any) -> Any:
        _check_numbers(values[1:], named)
        if function.__name__ == "do_format":
            _check_format(str(values[0]))
        return function(*values, **named)

    return bounded


def _check_numbers(values: Iterable[Any], named: Mapping[str, Any]) -> None:
    for value in (*values, *named.values()):
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise TemplateError(f"it uses the number {str(value)[:40]} as a size; at most {_LARGEST} are allowed")


def _check_length(length: int) -> None:
    if length > _LONGEST:
        raise TemplateError(f"it makes a value of {length} elements; at most {_LONGEST} are allowed")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MOST_BITS:
            raise TemplateError(f"it computes a number of more than {_MOST_BITS} bits")
    elif hasattr(left, "__len__") or hasattr(right, "__len__"):
        sizes = [len(value) if hasattr(value, "__len__") else int(value) for value in (left, right)]
        _check_length(sizes[0] * sizes[1])


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise TemplateError(f"it formats with a width: {text[:100]!r}")


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
