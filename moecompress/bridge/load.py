"""`load_transformers`: an artifact as an ordinary transformers model.

    model = moecompress.load_transformers("artifact", memory="2GiB")
    tokenizer = AutoTokenizer.from_pretrained("artifact")
    model.generate(**tokenizer("Once upon a time", return_tensors="pt"))

Everything but the routed experts is torch's, dequantised; the experts stay packed, in memory or on disk, and are
multiplied by the native engine's kernels. So the rest of the model takes more memory than in the engine, and every
family runs whose experts transformers calls through its registry, not only those the engine knows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from moecompress.artifact import strict_json
from moecompress.artifact.reader import ArtifactReader
from moecompress.bridge.budget import CacheNeeds, free_memory
from moecompress.bridge.experts import experts_modules, serve
from moecompress.bridge.saving import ArtifactQuantizer
from moecompress.bridge.server import ExpertServer
from moecompress.bridge.trunk import fill_trunk
from moecompress.core.errors import UsageError
from moecompress.core.units import parse_size
from moecompress.models.moe import TOP_K_KEYS, config_value
from moecompress.models.skeleton import Skeleton

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_GENERATION = "generation_config.json"


def load_transformers(
    artifact: str | os.PathLike[str],
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    dtype: str | torch.dtype = "float32",
) -> PreTrainedModel:
    """An `AutoModelForCausalLM` of the artifact's family, in evaluation mode on the CPU, that holds no expert weights.

    memory: most bytes of expert weights to keep in memory, or a text such as 600MiB; the others are read when they are
    needed. By default all, or what the machine can give. The output does not depend on it. threads: of the experts'
    kernels, by default all cores this process may use. dtype: of everything but the experts, which compute in float32.

    Raises BudgetError naming the smallest memory that works, UnsupportedModelError naming the family and the reason,
    ArtifactError, UsageError. The model refuses to be saved, pickled or trained.
    """
    folder, chosen = Path(artifact), _chosen_dtype(dtype)
    workers = _threads(threads)
    with ArtifactReader(folder) as reader:
        manifest = reader.manifest
        config = {**manifest.architecture.config, "model_type": manifest.architecture.model_type}
        skeleton = Skeleton(config, chosen)
        modules = experts_modules(skeleton, manifest)
        top_k = config_value(skeleton.text_config, TOP_K_KEYS)
        budget = free_memory(manifest, chosen.itemsize) if memory is None else parse_size(memory)
        slots = CacheNeeds.of(manifest, top_k).slots(budget)
        serve(skeleton.model, modules, ExpertServer(folder, manifest, top_k, slots, workers))
        fill_trunk(skeleton, reader, modules.values())
        _describe(skeleton.model, reader, folder)
    model: PreTrainedModel = skeleton.model
    return model


def _describe(model: Any, reader: ArtifactReader, folder: Path) -> None:
    """Where the model comes from, how it likes to generate, and what it must not do."""
    model.name_or_path = model.config.name_or_path = str(folder)
    model.hf_quantizer = ArtifactQuantizer(str(folder))
    if _GENERATION in reader.manifest.files:
        values = strict_json.loads(reader.asset(_GENERATION), f"{folder / _GENERATION}")
        model.generation_config = GenerationConfig.from_dict(values)


def _chosen_dtype(dtype: str | torch.dtype) -> torch.dtype:
    for name, value in _DTYPES.items():
        if dtype in (name, value):
            return value
    raise UsageError(f"dtype = {dtype!r} is not possible. Allowed: {', '.join(_DTYPES)}.")


def _threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0))
    if not 1 <= threads <= 1024:
        raise UsageError(f"threads = {threads} is not possible; it must lie between 1 and 1024.")
    return threads
