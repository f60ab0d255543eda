"""An artifact's experts at work inside torch: the native engine's store and kernels, routing given from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from moecompress.artifact.manifest import Manifest
from moecompress.core.errors import ArtifactError, RequestError, UsageError
from moecompress.runtime import _native
from moecompress.runtime.results import StoreStats
from moecompress.runtime.tables import expert_rows


class ExpertServer:
    """The experts of all layers of an artifact, some in memory, the others on disk. Thread-safe.

    Results do not depend on `slots` or `threads`, nor on what other tokens are worked on at once.
    """

    def __init__(self, folder: Path, manifest: Manifest, top_k: int, slots: int, threads: int) -> None:
        rows = expert_rows(manifest)
        self._tables = {layer: table for table, (layer, _, _) in enumerate(rows)}
        try:
            self._native = _native.RoutedExperts(str(folder), rows, top_k, slots=slots, threads=threads)
        except (ValueError, _native.ReadError) as error:
            raise ArtifactError(f"The experts of {folder} cannot be served: {error}") from error

    def layer(self, index: int) -> ServedLayer:
        """The experts of one decoder layer."""
        return ServedLayer(self, self._tables[index])

    def stats(self) -> StoreStats:
        """Traffic of the store since it was opened."""
        return StoreStats(**self._native.stats())

    def run(self, table: int, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sums `[T, H]` of experts; see ServedLayer."""
        if torch.is_grad_enabled() and (hidden.requires_grad or weights.requires_grad):
            raise UsageError(
                "No gradient can pass through experts that come from an artifact. "
                "Call the model under torch.no_grad() or torch.inference_mode()."
            )
        with _request_errors():
            output = self._native.run(
                table,
                _array(hidden, torch.float32),
                _array(index, torch.int64),
                _array(weights, torch.float32),
            )
        return torch.from_numpy(output).to(hidden.device, hidden.dtype).view(hidden.shape)


class ServedLayer:
    """The experts of one layer, as a plain attribute of the transformers module whose weights they replace."""

    def __init__(self, server: ExpertServer, table: int) -> None:
        self.server = server
        self._table = table

    def run(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Sums over K of weight · expert(hidden): hidden `[T, H]`, index and weights `[T, K]`, result like hidden.

        An index of the number of experts or more means no expert. Computed in float32 whatever the type of hidden.
        Raises UsageError when a gradient is asked for, RequestError for a failed read or a routing out of range.
        """
        return self.server.run(self._table, hidden, index, weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> ServedLayer:
        return self

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "A model whose experts come from an artifact cannot be pickled; "
            "call moecompress.load_transformers where it is needed."
        )


def _array(tensor: torch.Tensor, dtype: torch.dtype) -> Any:
    return tensor.detach().reshape(-1, tensor.shape[-1]).to("cpu", dtype).contiguous().numpy()


@contextmanager
def _request_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, _native.ReadError) as error:
        raise RequestError(str(error)) from error
