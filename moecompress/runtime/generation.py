"""One text being generated: an iterator over its pieces, and the result when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from moecompress.core import memory
from moecompress.core.errors import RequestError
from moecompress.runtime.results import FinishReason, GenerationResult
from moecompress.runtime.sampling import Sampler, SamplingOptions
from moecompress.runtime.text import StopScanner, TextStream

if TYPE_CHECKING:
    from moecompress.runtime.engine import Engine


class RequestCancelled(RequestError):
    """The request was ended by `cancel`."""


class Generation:
    """Iterate once for the pieces of text; nothing runs before. Without a tokenizer the pieces are empty."""

    def __init__(
        self, engine: Engine, prompt: list[int], max_tokens: int, sampling: SamplingOptions, stops: Sequence[str]
    ) -> None:
        self._engine = engine
        self._ids = prompt  # grows by what is generated
        self._prompt_tokens = len(prompt)
        self._limit = min(max_tokens, engine.context - len(prompt) + 1)
        self._sampler = Sampler(sampling)
        self._stops = StopScanner(stops)
        self._pieces: list[str] = []
        self._result: GenerationResult | None = None
        self._cancelled = False
        self._started = False

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        return tuple(self._ids[: self._prompt_tokens])

    @property
    def result(self) -> GenerationResult:
        """The finished text and its figures. Raises RequestError while the text is not finished."""
        if self._result is None:
            raise RequestError("The generation has not finished; iterate over it to its end first.")
        return self._result

    def run(self) -> GenerationResult:
        """Generate to the end and return the result."""
        for _ in self:
            pass
        return self.result

    def cancel(self) -> None:
        """End the text at the next layer, with finish_reason `cancelled`. Callable from any thread."""
        self._cancelled = True
        self._engine.cancel()

    def __iter__(self) -> Iterator[str]:
        if self._started:
            raise RequestError("A generation can be iterated over once; call generate again.")
        self._started = True
        return self._run()

    def _run(self) -> Iterator[str]:
        begun = time.perf_counter()
        first, reused = begun, 0
        reason: FinishReason = "cancelled"
        stream = self._engine.stream(self._ids)
        try:
            self._check_cancelled()
            token, reused = self._engine.start(self._ids, self._sampler.draw())
            first = time.perf_counter()
            while True:
                self._ids.append(token)
                ended = token in self._engine.end_ids
                yield from self._show("" if ended else stream.push(token))
                if ended or self._stops.stopped or self._generated >= self._limit:
                    reason = "stop" if ended or self._stops.stopped else "length"
                    break
                self._check_cancelled()
                token = self._engine.step(self._ids, self._sampler.draw())
        except RequestCancelled:
            pass
        yield from self._finish(stream)
        self._result = self._summary(reason, reused, first - begun, time.perf_counter() - begun)

    @property
    def _generated(self) -> int:
        return len(self._ids) - self._prompt_tokens

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise RequestCancelled("The request was cancelled.")

    def _show(self, piece: str) -> Iterator[str]:
        shown = self._stops.push(piece)
        if shown:
            self._pieces.append(shown)
            yield shown

    def _finish(self, stream: TextStream) -> Iterator[str]:
        """What the stream and the scanner still hold."""
        yield from self._show(stream.flush())
        rest = self._stops.flush()
        if rest:
            self._pieces.append(rest)
            yield rest

    def _summary(self, reason: FinishReason, reused: int, first: float, seconds: float) -> GenerationResult:
        return GenerationResult(
            text="".join(self._pieces),
            token_ids=tuple(self._ids[self._prompt_tokens :]),
            finish_reason=reason,
            prompt_tokens=self._prompt_tokens,
            reused_tokens=reused,
            seconds_to_first_token=first,
            seconds=seconds,
            peak_rss_bytes=memory.peak_rss_bytes(),
            budget_bytes=self._engine.plan.budget,
            lossy=self._engine.lossy,
            store=self._engine.store_stats(),
        )
