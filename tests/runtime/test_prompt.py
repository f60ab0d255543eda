"""What a prompt may weigh, and that refusing one costs no more memory than a prompt that fits."""

from __future__ import annotations

import pytest

from moecompress.core.errors import RequestError
from moecompress.runtime.prompt import encode_prompt, longest_text, text_bytes


class Words:
    """A tokenizer with a token per word that remembers the longest text it was given."""

    def __init__(self) -> None:
        self.longest = 0

    def __call__(self, text: str) -> list[int]:
        self.longest = max(self.longest, len(text))
        return list(range(len(text.split())))


def test_a_prompt_that_fits_is_encoded_as_a_whole():
    text = "word " * 3000
    assert encode_prompt(Words(), text, 3000) == list(range(3000))


def test_a_short_prompt_of_too_many_tokens_is_told_their_number():
    with pytest.raises(RequestError, match="has 11 tokens, but the context is 10"):
        encode_prompt(Words(), "word " * 11, 10)


def test_a_long_prompt_of_too_many_tokens_is_never_encoded_as_a_whole():
    encode = Words()
    with pytest.raises(RequestError, match=r"has about \d+ tokens, but the context is 3000"):
        encode_prompt(encode, "a " * 11_000, 3000)
    assert encode.longest == 3000


def test_a_text_beyond_all_bounds_is_refused_unread():
    encode = Words()
    with pytest.raises(RequestError, match="has 120000 bytes of text, but the context is 3000"):
        encode_prompt(encode, "a" * 120_000, 3000)
    assert encode.longest == 0


def test_bytes_count_and_not_characters():
    assert longest_text(10) == 16384
    with pytest.raises(RequestError, match="has 18000 bytes"):
        encode_prompt(Words(), "日" * 6000, 10)


def test_memory_grows_with_the_context():
    assert text_bytes(1) > 1 << 20
    assert text_bytes(1 << 17) == 32 * text_bytes(4096)
