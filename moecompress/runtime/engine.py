"""The torch-free engine: opens an artifact inside a memory budget and generates text from it.

with Engine.open("artifact", memory="600MiB") as engine:
    generation = engine.generate("Once upon a time", max_tokens=64)
    for piece in generation:
        print(piece, end="", flush=True)
    print(generation.result.tokens_per_s)
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from moecompress.artifact.manifest import Manifest
from moecompress.core.errors import RequestError, UsageError
from moecompress.core.units import format_size
from moecompress.runtime import _native
from moecompress.runtime.generation import Generation, RequestCancelled
from moecompress.runtime.ledger import MemoryPlan
from moecompress.runtime.loading import Loaded, LoadOptions, Prepared, load, logits_bytes, prepare
from moecompress.runtime.prompt import encode_prompt, too_long
from moecompress.runtime.results import StoreStats
from moecompress.runtime.sampling import GREEDY, Choice, SamplingOptions
from moecompress.runtime.text import TextStream
from moecompress.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Routing = tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32], npt.NDArray[np.uint16]]

T = TypeVar("T")


class Engine:
    """One artifact in memory. Calls from several threads take turns; `cancel` may come from any thread at any time."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded: Loaded | None = loaded
        self._turn = threading.Lock()
        self._cancelled = threading.Event()
        self._ids: list[int] = []  # the first `position` of them have their keys and values in the cache

    @classmethod
    def open(
        cls,
        artifact: str | Path,
        memory: int | str | None = None,
        threads: int | None = None,
        context: int | None = None,
        **options: Any,
    ) -> Self:
        """Load an artifact.

        memory: hard cap on this process's resident memory, bytes or a text such as 600MiB; by default 85 % of what the
        machine or its memory cgroup can give. threads: default all cores this process may use. context: most tokens of
        prompt and text together; default 4096 or what the model was trained for. Further options: see LoadOptions.
        Raises BudgetError for a budget that is too small, ArtifactError, UnsupportedModelError, UsageError.
        """
        return cls(load(cls.prepare(artifact, memory, threads, context, **options)))

    @staticmethod
    def prepare(
        artifact: str | Path,
        memory: int | str | None = None,
        threads: int | None = None,
        context: int | None = None,
        **options: Any,
    ) -> Prepared:
        """What `open` would load, with its memory plan; `Engine(load(prepared))` loads it. Arguments as for `open`."""
        return prepare(Path(artifact), LoadOptions.of(memory, threads, context, **options))

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self._open.manifest

    @property
    def plan(self) -> MemoryPlan:
        """How the memory budget is spent."""
        return self._open.plan

    @property
    def lossy(self) -> tuple[str, ...]:
        """The options that change the output, such as `kv=int8`; empty by default."""
        return self._open.lossy

    @property
    def vocabulary(self) -> int:
        """Number of logits per token."""
        return self._open.architecture.sizes.vocabulary

    @property
    def context(self) -> int:
        """Most tokens of prompt and text together."""
        return self._open.plan.context

    @property
    def top_k(self) -> int:
        """Routed experts a token uses in a layer."""
        return self._open.architecture.top_k

    @property
    def isa(self) -> str:
        """The instruction-set path of the kernels: scalar, avx2 or avx512vnni."""
        return str(self._open.model.isa)

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer. Raises RequestError when it has none."""
        if self._open.tokenizer is None:
            raise RequestError("This artifact holds no tokenizer.json; give token ids instead of text.")
        return self._open.tokenizer

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Generation:
        """A generation to iterate over: pieces of text as they come, then `.result`.

        prompt: text, or token ids; for a conversation see `chat`. The text ends at an end-of-text token,
        before a stop string, after max_tokens, or when the context is full. Raises RequestError at once for a prompt
        that is empty or longer than the context and for options out of range; nothing has run then.
        """
        sampling = SamplingOptions(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        if max_tokens < 1:
            raise RequestError(f"max_tokens = {max_tokens} is not possible; it must be at least 1.")
        if isinstance(prompt, str):
            ids = encode_prompt(self.tokenizer.encode, prompt, self.context)
        else:
            ids = [int(token) for token in prompt]
        self._check(ids)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return Generation(self, ids, max_tokens, sampling, stops)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Generation:
        """The answer to a conversation through the model's chat template; options are those of `generate`.

        messages: mappings with `role` and `content`. What the conversation shares with the request before is not
        computed again. Raises RequestError when the model has no template, as `generate` otherwise.
        """
        encode = partial(self.tokenizer.encode, special=False)
        return self.generate(encode_prompt(encode, self.tokenizer.render(messages), self.context), **options)

    def logits(self, ids: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits [n, vocabulary] after each of the n tokens of one text. Raises RequestError as `generate` does.

        Memory for them is part of the budget: `Engine.open(…, logits=n)` sets it aside.
        """
        tokens = [int(token) for token in ids]
        self._check(tokens)
        self._check_room(len(tokens))
        self._cancelled.clear()
        logits: npt.NDArray[np.float32]
        logits, _ = self._compute(tokens, 0, lambda model, rest: model.forward(rest, True))
        return logits

    def routing(self, ids: Sequence[int], guesses: int = 0) -> Iterator[Routing]:
        """What the tokens of one text choose, a chunk at a time: experts uint16 [n, layers, top_k] by weight, the
        weights float32, and the `guesses` experts uint16 that each layer's router ranks first one layer early.

        Layers count layers with routed experts. Raises RequestError as `generate` does.
        """
        tokens = [int(token) for token in ids]
        self._check(tokens)
        self._cancelled.clear()
        self._open.model.record_routing(guesses)
        for first in range(0, len(tokens), self.plan.chunk):
            part = tokens[: first + self.plan.chunk]
            routing, _ = self._compute(part, first, _run_and_tell)
            yield routing

    def cancel(self) -> None:
        """End the request that runs now, at the next layer. Callable from any thread."""
        self._cancelled.set()
        loaded = self._loaded
        if loaded is not None:
            loaded.model.cancel()

    def forget(self) -> None:
        """Empty the key-value cache, so that the next prompt is computed as a whole. Experts stay in memory."""
        with self._turn:
            self._open.model.reset(0)
            self._ids = []

    def close(self) -> None:
        """Give the memory back; the engine cannot be used any more."""
        with self._turn:
            self._loaded, self._ids = None, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What a Generation needs.

    def start(self, prompt: list[int], choice: Choice = GREEDY) -> tuple[int, int]:
        """The token after a prompt, and how many of the prompt's were in the cache from the request before."""
        self._cancelled.clear()
        self._open.model.clear_stats()
        return self._next(prompt, choice)

    def step(self, ids: list[int], choice: Choice = GREEDY) -> int:
        """The token after ids; computes only what the cache does not hold, as a rule the last of them.

        The caller may append to `ids` between steps, but not change what is in it.
        """
        return self._next(ids, choice)[0]

    def stream(self, prompt: list[int]) -> TextStream:
        """Text of the tokens that follow a prompt."""
        tokenizer = self._open.tokenizer
        return TextStream(lambda ids: "", prompt) if tokenizer is None else tokenizer.stream(prompt)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        tokenizer = self._open.tokenizer
        return frozenset() if tokenizer is None else tokenizer.end_ids

    def store_stats(self) -> StoreStats:
        """Traffic of the expert store since the last prompt."""
        return StoreStats(**self._open.model.stats())

    @property
    def _open(self) -> Loaded:
        if self._loaded is None:
            raise UsageError("This engine was closed; open the artifact again.")
        return self._loaded

    def _check(self, ids: list[int]) -> None:
        if not ids:
            raise RequestError("The prompt is empty; it needs at least one token.")
        if len(ids) > self.context:
            raise too_long(f"{len(ids)} tokens", self.context)
        outside = next((token for token in ids if not 0 <= token < self.vocabulary), None)
        if outside is not None:
            raise RequestError(f"Token id {outside} lies outside the vocabulary of {self.vocabulary}.")

    def _check_room(self, tokens: int) -> None:
        needed, room = logits_bytes(self.vocabulary, tokens), self.plan.logits + self.plan.spare
        if needed > room:
            raise RequestError(
                f"The logits of {tokens} tokens take {format_size(needed)}, but the memory budget leaves "
                f"{format_size(room)} for them. Ask for fewer tokens, or open the artifact with logits={tokens}."
            )

    def _next(self, ids: list[int], choice: Choice) -> tuple[int, int]:
        return self._compute(ids, len(ids) - 1, lambda model, rest: model.next(rest, *choice))

    def _compute(self, ids: list[int], reusable: int, run: Callable[[Any, array[int]], T]) -> tuple[T, int]:
        """What `run` gives for the ids that the cache does not hold, and how many of the first `reusable` it held."""
        with self._turn, _request_errors():
            model = self._open.model
            held = min(model.position, reusable)
            reused = held if ids is self._ids else _common(self._ids, ids, held)
            model.reset(reused)
            if self._cancelled.is_set():
                raise RequestCancelled("The request was cancelled.")
            self._ids = ids
            return run(model, array("i", ids[reused:])), reused


def _run_and_tell(model: Any, ids: array[int]) -> Routing:
    model.forward(ids)
    routing: Routing = model.routing()
    return routing


def _common(left: list[int], right: list[int], most: int) -> int:
    """How many of the first `most` elements are equal."""
    if left[:most] == right[:most]:
        return most
    return next(index for index in range(most) if left[index] != right[index])


@contextmanager
def _request_errors() -> Iterator[None]:
    try:
        yield
    except _native.ReadError as error:
        raise RequestError(str(error)) from error
    except _native.Cancelled as error:
        raise RequestCancelled(str(error)) from error
    except ValueError as error:
        raise RequestError(str(error)) from error
