"""The files a comparison needs, in one folder, made when first asked for and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from comparison.protocol import Worker, WorkerError, started
from moecompress.artifact.files import artifact_bytes
from moecompress.artifact.reader import read_manifest
from synthetic import artifact, gguf_file, gguf_model, routing
from synthetic.artifact import Bits
from synthetic.shapes import PRESETS, Shape
from synthetic.tokens import stream
from synthetic.weights import Weights

HERE = Path(__file__).parent
INSTALL = (
    'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install "moecompress[peers]" (builds llama.cpp, more than ten minutes). On a '
    "processor with AMX, where the native build of this version dies, list the instruction sets instead: "
    "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON, and -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON"
)


class PeerMissing(Exception):
    """The Python that should run the peer has no llama-cpp-python; the message says how to install it."""


@dataclass(frozen=True)
class Workspace:
    """`folder` holds the models; `peer` is the Python with llama-cpp-python, None to leave the peer out."""

    folder: Path
    peer: str | None
    own: str
    threads: int
    report: Callable[[str], None] = print

    def own_worker(self, group: Path | None = None) -> AbstractContextManager[Worker]:
        """Our engine in a process of its own."""
        return started(self.own, HERE / "own_worker.py", group)

    def peer_worker(self, group: Path | None = None) -> AbstractContextManager[Worker]:
        """llama.cpp in a process of its own."""
        assert self.peer is not None, "a measurement without the peer asked for it"
        return started(self.peer, HERE / "llama_worker.py", group)

    @cached_property
    def peer_hello(self) -> dict[str, Any] | None:
        """Version and build of the peer, None when it is left out. Raises PeerMissing."""
        if self.peer is None:
            return None
        try:
            with self.peer_worker() as worker:
                answer = worker.ask("hello")
        except (WorkerError, OSError) as error:
            raise PeerMissing(
                f"{self.peer} cannot run llama-cpp-python ({error}). Install it with {INSTALL}; name its Python with "
                "--peer-python, or measure our half alone with --without-peer."
            ) from error
        return {"version": answer["version"], "build": answer["build"]}

    def weights(self, shape: str) -> Weights:
        """The synthetic model of a preset shape."""
        return Weights(PRESETS[shape])

    def tokens(self, shape: str, count: int) -> list[int]:
        """The first ids of the text every engine is fed."""
        return stream(PRESETS[shape], count)

    def artifact(self, shape: str, bits: Bits) -> Path:
        """A synthetic model as our artifact."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return artifact.build_artifact(self.weights(shape), bits, self.folder / f"{shape}-{bits.name}", self.report)

    def gguf(self, shape: str, kind: str) -> Path:
        """A synthetic model as a GGUF file of llama.cpp's type `kind`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{shape}-{kind}.gguf"
        if path.is_file():
            return path
        self.report(f"making {path.name}")
        if kind == "BF16":
            return gguf_model.build_bf16(self.weights(shape), path)
        if kind in gguf_model.MIXES:
            return gguf_model.build_random(self.weights(shape), kind, path)
        return self.quantized(self.gguf(shape, "BF16"), path, kind)

    def quantized(self, source: Path, path: Path, kind: str) -> Path:
        """A GGUF file quantized by llama.cpp."""
        partial = path.with_name(path.name + ".partial")
        with self.peer_worker() as worker:
            worker.ask("quantize", source=str(source), target=str(partial), kind=kind, threads=self.threads)
        return partial.rename(path)

    def ggufs(self, shape: str, kinds: Sequence[str]) -> dict[str, Path]:
        """Several types of one model; the bfloat16 file they are made from is deleted unless it is one of them."""
        made = {kind: self.gguf(shape, kind) for kind in kinds}
        if "BF16" not in kinds:
            (self.folder / f"{shape}-BF16.gguf").unlink(missing_ok=True)
        return made

    def routing(self, shape: str) -> dict[str, Any]:
        """Routing of the token stream by the unquantized weights; measured once."""
        path = self.folder / f"{shape}-routing.json"
        if not path.is_file():
            self.report(f"measuring the routing of {shape}")
            path.write_text(json.dumps(routing.measure(self.weights(shape), self.tokens(shape, 299))))
        measured: dict[str, Any] = json.loads(path.read_text())
        return measured


def sizes(path: Path, shape: Shape) -> dict[str, int]:
    """Bytes of a model on disk and, of its weights, per token."""
    if path.is_dir():
        return {"bytes": artifact_bytes(path), "active_bytes": artifact.active_bytes(read_manifest(path), shape.top_k)}
    return {"bytes": path.stat().st_size, "active_bytes": gguf_file.active_bytes(path)}
