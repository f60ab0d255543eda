"""Text from tokens as they come: no torn characters, and nothing that might yet become a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_TORN = "\ufffd"
_CONTEXT_TOKENS = 6
# A character has at most four bytes, so more tokens than this that still decode to a torn end are torn for good.
_LONGEST_WAIT = 8


class TextStream:
    """Turns token ids into pieces of text whose concatenation is the text of all of them.

    Some decoders look at neighbours (a leading space is dropped at the start), so every token is decoded after a few
    of its predecessors, which at first are the end of the prompt.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt[-_CONTEXT_TOKENS:])
        self._start, self._shown = 0, len(self._ids)
        self._before = decode(self._ids)

    def push(self, token: int) -> str:
        """The text that the token completes; empty while a character is torn."""
        self._ids.append(token)
        text = self._decode(self._ids[self._start :])
        if text.endswith(_TORN) and len(self._ids) - self._shown < _LONGEST_WAIT:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """What is left at the end, torn or not."""
        return self._advance(self._decode(self._ids[self._start :])) if self._shown < len(self._ids) else ""

    def _advance(self, text: str) -> str:
        piece = text[len(self._before) :]
        self._start, self._shown = self._shown, len(self._ids)
        self._before = self._decode(self._ids[self._start :])
        return piece


class StopScanner:
    """Ends a text before the first stop string, holding back what could be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that is safe to show. After a stop string, `stopped` is true and nothing more is shown."""
        if self.stopped:
            return ""
        self._held += piece
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        self.stopped = bool(places)
        safe = min(places) if places else len(self._held) - self._unsure()
        shown, self._held = self._held[:safe], self._held[safe:]
        return shown

    def flush(self) -> str:
        """What was held back, when the text ended without a stop string."""
        shown, self._held = ("" if self.stopped else self._held), ""
        return shown

    def _unsure(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max((len(stop) for stop in self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
