"""Streaming: characters stay whole, spaces survive, stop strings are held back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecompress.runtime.text import StopScanner, TextStream


def _bytes_decode(ids: Sequence[int]) -> str:
    """One token per byte."""
    return bytes(ids).decode("utf-8", errors="replace")


def _words_decode(ids: Sequence[int]) -> str:
    """Like SentencePiece: every token begins with a space, the first one's is dropped."""
    return "".join(f" w{token}" for token in ids).removeprefix(" ")


@given(st.text(max_size=30), st.text(max_size=10))
def test_pieces_of_any_text_are_whole_characters(text, prompt):
    stream = TextStream(_bytes_decode, list(prompt.encode()))
    pieces = [stream.push(byte) for byte in text.encode()]
    assert "".join(pieces) + stream.flush() == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_a_character_is_shown_with_its_last_byte():
    stream = TextStream(_bytes_decode, [])
    assert [stream.push(byte) for byte in "a€b".encode()] == ["a", "", "", "€", "b"]


def test_a_torn_end_is_shown_when_nothing_follows():
    stream = TextStream(_bytes_decode, [])
    assert [stream.push(byte) for byte in "é".encode()[:1]] == [""]
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_bytes_that_never_make_a_character_do_not_stop_the_stream():
    stream = TextStream(_bytes_decode, [])
    shown = "".join(stream.push(0x80) for _ in range(50))
    assert len(shown) >= 40


def test_the_space_after_the_prompt_is_kept():
    stream = TextStream(_words_decode, [7, 8])
    assert [stream.push(9), stream.push(10)] == [" w9", " w10"]
    stream = TextStream(_words_decode, [])
    assert [stream.push(9), stream.push(10)] == ["w9", " w10"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["nine"], "one two three"),
        ("aaab", ["aab"], "a"),
        ("abcabd", ["abd", "cab"], "ab"),
        ("ending E", ["END"], "ending E"),
        ("text", [], "text"),
        ("text", [""], "text"),
        ("stop at once", ["stop"], ""),
    ],
)
def test_text_ends_before_the_first_stop_string(text, stops, expected, size):
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(text[place : place + size]) for place in range(0, len(text), size))
    assert shown + scanner.flush() == expected
    assert scanner.stopped == (expected != text)


def test_only_a_possible_beginning_is_held_back():
    scanner = StopScanner(["<end>"])
    assert scanner.push("abc<en") == "abc"
    assert scanner.push("e") == "<ene"
    assert scanner.push("<end") == ""
    assert scanner.push(">tail") == "" and scanner.stopped
    assert scanner.push("more") == "" and scanner.flush() == ""


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.integers(1, 4))
def test_any_cut_gives_the_same_text(text, stops, size):
    places = [text.find(stop) for stop in stops if stop in text]
    expected = text[: min(places)] if places else text
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(text[place : place + size]) for place in range(0, len(text), size)) + scanner.flush()
    # Several stop strings: the one that is complete first ends the text, so at most a later start is shown.
    assert shown == expected or (len(stops) > 1 and shown.startswith(expected) and scanner.stopped)
