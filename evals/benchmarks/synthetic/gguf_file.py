"""GGUF files written tensor by tensor, so that a model need not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from moecompress.codecs.bfloat16 import bf16_bits

Type = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class Tensor:
    """A tensor to come: rows last in `shape` are the contiguous axis; `data` gives its bytes in that order."""

    name: str
    shape: tuple[int, ...]
    type: Type
    data: Callable[[], npt.NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return nbytes(self.type, self.shape)


def nbytes(kind: Type, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this type. Its rows must be whole blocks."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"{kind.name} stores rows in blocks of {block}, so not rows of {shape[-1]} weights.")
    return prod(shape) // block * size


def float32(name: str, shape: tuple[int, ...], values: Callable[[], npt.NDArray[np.float32]]) -> Tensor:
    """A tensor in float32, made when it is written."""
    return Tensor(name, shape, Type.F32, values)


def bfloat16(name: str, shape: tuple[int, ...], values: Callable[[], npt.NDArray[np.float32]]) -> Tensor:
    """A tensor in bfloat16, made when it is written."""
    return Tensor(name, shape, Type.BF16, lambda: bf16_bits(values()).view(np.uint8))


def write(path: Path, architecture: str, fields: Mapping[str, int | float | str], tensors: Iterable[Tensor]) -> Path:
    """Write the file under a temporary name, then rename it. Fields without a dot belong to the architecture."""
    partial, listed = path.with_name(path.name + ".partial"), list(tensors)
    writer = gguf.GGUFWriter(partial, architecture)
    for name, value in {**fields, "tokenizer.ggml.model": "none"}.items():
        key = name if "." in name and name.split(".")[0] in ("general", "tokenizer") else f"{architecture}.{name}"
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(key, value)  # type: ignore[operator]
    for tensor in listed:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in listed:
        data = tensor.data()
        if data.nbytes != tensor.nbytes:
            raise ValueError(f"{tensor.name} has {data.nbytes} bytes; {tensor.type.name} needs {tensor.nbytes}.")
        writer.write_tensor_data(data)
    writer.close()
    return partial.rename(path)


def active_bytes(path: Path) -> int:
    """Bytes of weights one token touches: of the experts their share of use, all else but the embedding."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    used = reader.fields[f"{architecture}.expert_used_count"].contents()
    total = reader.fields[f"{architecture}.expert_count"].contents()
    bytes_ = 0
    for tensor in reader.tensors:
        if tensor.name != "token_embd.weight":
            bytes_ += tensor.n_bytes * used // total if "_exps" in tensor.name else tensor.n_bytes
    return int(bytes_)
