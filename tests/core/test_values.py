"""Plain values as dataclasses: what is read, what is refused and where, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from moecompress.core import values
from moecompress.core.values import Between, Matches, Mismatch


@dataclass(frozen=True, slots=True)
class Inner:
    size: Annotated[int, Between(0, 9)]
    name: Annotated[str, Matches("[a-z]+")] = "x"


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner
    many: tuple[Inner, ...]
    table: dict[Literal["a", "b"], Inner]
    ratio: float
    flag: bool = False
    note: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)


PLAIN = {
    "inner": {"size": 3, "name": "abc"},
    "many": [{"size": 0}, {"size": 9}],
    "table": {"b": {"size": 1}},
    "ratio": 2,
    "note": "n",
    "rest": {"deep": [1, {"x": None}]},
}


def test_a_plain_value_is_read_and_given_back():
    outer = values.read(Outer, PLAIN)
    assert outer.inner == Inner(3, "abc") and outer.many == (Inner(0), Inner(9))
    assert outer.table == {"b": Inner(1)} and outer.ratio == 2.0 and type(outer.ratio) is float
    assert outer.flag is False and outer.rest == PLAIN["rest"]
    plain = values.plain(outer)
    assert plain["many"] == [{"size": 0, "name": "x"}, {"size": 9, "name": "x"}]
    assert values.read(Outer, plain) == outer


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"inner": {"size": 10}}, "inner.size", "between 0 and 9"),
        ({"inner": {"size": True}}, "inner.size", "whole number"),
        ({"inner": {"size": 1.0}}, "inner.size", "whole number"),
        ({"inner": {"size": 1, "name": "A"}}, "inner.name", "match"),
        ({"inner": {"size": 1, "name": "a\n"}}, "inner.name", "match"),
        ({"inner": {"size": 1, "more": 2}}, "inner.more", "not one of size, name"),
        ({"inner": {}}, "inner.size", "missing"),
        ({"inner": []}, "inner", "object"),
        ({"many": {}}, "many", "list"),
        ({"many": [{"size": 1}, {"size": -1}]}, "many.1.size", "between"),
        ({"table": {"c": {"size": 1}}}, "table.c", "one of 'a', 'b'"),
        ({"table": [1]}, "table", "object"),
        ({"ratio": "2"}, "ratio", "number"),
        ({"ratio": True}, "ratio", "number"),
        ({"ratio": float("inf")}, "ratio", "finite"),
        ({"ratio": float("nan")}, "ratio", "finite"),
        ({"ratio": 10**400}, "ratio", "finite"),
        ({"flag": 0}, "flag", "true or false"),
        ({"note": 3}, "note", "text"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(change, place, words):
    with pytest.raises(Mismatch, match=words) as caught:
        values.read(Outer, {**PLAIN, **change})
    assert caught.value.place == place


def test_an_instance_made_by_hand_can_be_checked():
    values.check(Inner(4))
    with pytest.raises(Mismatch, match="between") as caught:
        values.check(Inner(11))
    assert caught.value.place == "size" and caught.value.value == 11


def test_subclasses_of_text_are_text():
    class Version(str):
        __slots__ = ()

    assert values.read(Inner, {"size": 1, "name": Version("abc")}).name == "abc"
