#!/usr/bin/env python3
"""llama.cpp as a worker, through llama-cpp-python; started by the benchmark with the peer's Python, not by hand."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import llama_cpp as api
import numpy as np
from protocol import serve


@api.llama_log_callback
def _quiet(level: int, text: bytes, data: Any) -> None:
    """Errors only: the library's progress is no part of an answer."""


class Llama:
    """One GGUF file, opened once."""

    def __init__(self) -> None:
        api.llama_log_set(_quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        self._model: Any = None
        self._context: Any = None

    def hello(self) -> dict[str, Any]:
        """What the peer is: version and the instruction sets it was built with."""
        return {"version": api.__version__, "build": api.llama_print_system_info().decode().strip()}

    def quantize(self, source: str, target: str, kind: str, threads: int) -> dict[str, Any]:
        """llama.cpp's own quantization of a file, for example to Q4_K_M."""
        options = api.llama_model_quantize_default_params()
        options.nthread, options.ftype = threads, getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind}")
        options.max_buf_size = 1 << 30
        code = api.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))
        if code:
            raise RuntimeError(f"llama_model_quantize of {source} to {kind} failed with code {code}.")
        return {}

    def open(
        self, path: str, threads: int, context: int, repack: bool, mmap: bool, flash: bool | None = None
    ) -> dict[str, Any]:
        """Open a file. repack: let it rearrange weights for its kernels. flash: such attention, None for its choice."""
        start = time.perf_counter()
        model = api.llama_model_default_params()
        model.use_extra_bufts = repack
        model.load_mode = api.LLAMA_LOAD_MODE_MMAP if mmap else api.LLAMA_LOAD_MODE_NONE
        self._model = api.llama_model_load_from_file(path.encode(), model)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot open {path}.")
        options = api.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, 512, 512
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = -1 if flash is None else int(flash)
        self._context = api.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp has no memory for a context of {context} tokens of {path}.")
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        return {"seconds": time.perf_counter() - start}

    def prefill(self, ids: list[int]) -> dict[str, Any]:
        """Read a prompt from an empty cache."""
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        start = time.perf_counter()
        self._evaluate(ids)
        token = int(np.argmax(self._logits(-1)))
        return {"seconds": time.perf_counter() - start, "reused": 0, "tokens": [token]}

    def decode(self, ids: list[int], limit: float = 1e9) -> dict[str, Any]:
        """Decode given ids one by one, choosing greedily each time; ends early after `limit` seconds."""
        seconds, tokens, begin = [], [], time.perf_counter()
        for token in ids:
            start = time.perf_counter()
            self._evaluate([token])
            tokens.append(int(np.argmax(self._logits(-1))))
            seconds.append(time.perf_counter() - start)
            if time.perf_counter() - begin > limit:
                break
        return {"seconds": seconds, "tokens": tokens}

    def logits(self, ids: list[int], path: str) -> dict[str, Any]:
        """Save the logits after each id, `[n, vocabulary]`."""
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        rows = []
        for token in ids:
            self._evaluate([token])
            rows.append(self._logits(-1).copy())
        np.save(path, np.stack(rows))
        return {}

    def _evaluate(self, ids: list[int]) -> None:
        for first in range(0, len(ids), 512):
            part = ids[first : first + 512]
            tokens = (api.llama_token * len(part))(*part)  # the batch only points to it
            code = api.llama_decode(self._context, api.llama_batch_get_one(tokens, len(part)))
            if code:
                raise RuntimeError(f"llama_decode failed with code {code}.")

    def _logits(self, index: int) -> np.ndarray[Any, Any]:
        return np.ctypeslib.as_array(api.llama_get_logits_ith(self._context, index), (self._vocabulary,))


if __name__ == "__main__":
    serve(Llama())
