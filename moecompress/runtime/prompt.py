"""Text to tokens within the memory that the ledger sets aside for it.

While it encodes, the tokenizer library holds up to `100 · bytes + 220 · tokens` of a text (measured with tokenizers
0.23 on prose, code, digits, runs of spaces and CJK), and Python keeps some 160 bytes for each token of a context. A
text may therefore have 8 bytes for each token of the context, and a longer one, or one of too many tokens, is refused
before it is encoded as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

from moecompress.core.errors import RequestError

_PER_BYTE, _PER_TOKEN, _KEPT_PER_TOKEN = 100, 220, 160
_BYTES_PER_TOKEN = 8
_SHORT = 16 << 10  # bytes that are always allowed
_PIECE = 2048  # characters that are always encoded at once
_SPLIT_WORDS = 128  # tokens more that a text may seem to have when it is counted in pieces

Encode = Callable[[str], list[int]]


class PromptTooLong(RequestError):
    """A prompt that does not fit the context."""


def longest_text(context: int) -> int:
    """The most bytes of UTF-8 that a prompt for this context may have."""
    return max(_BYTES_PER_TOKEN * context, _SHORT)


def text_bytes(context: int) -> int:
    """Memory for tokenizing a prompt that fills the context, and for the ids of prompt and text."""
    return _PER_BYTE * longest_text(context) + (2 * _PER_TOKEN + _KEPT_PER_TOKEN) * context


def encode_prompt(encode: Encode, text: str, context: int) -> list[int]:
    """Token ids of a text. Raises PromptTooLong when it cannot fit the context."""
    size = len(text.encode())
    if size > longest_text(context):
        raise too_long(f"{size} bytes of text", context)
    if size > max(context, _PIECE):
        count = _count(encode, text, context)
        if count > context + _SPLIT_WORDS:
            raise too_long(f"about {count} tokens", context)
    ids = encode(text)
    if len(ids) > context:
        raise too_long(f"{len(ids)} tokens", context)
    return ids


def _count(encode: Encode, text: str, context: int) -> int:
    """Tokens of a text, encoded piece by piece until there are clearly too many; off by a few where words are cut."""
    count, piece = 0, max(context, _PIECE)
    for start in range(0, len(text), piece):
        count += len(encode(text[start : start + piece]))
        if count > 2 * context + _SPLIT_WORDS:
            break
    return count


def too_long(what: str, context: int) -> PromptTooLong:
    """The error for a prompt that has `what`."""
    return PromptTooLong(
        f"The prompt has {what}, but the context is {context}. Shorten it, or open the artifact with a larger context."
    )
