"""`check_family`: what must hold for a checkpoint of a supported family; any that is small enough to load will do."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

from moecompress.core.types import MoeLayer
from moecompress.models.discover import ModelLayout, discover, layout_from_trunk
from moecompress.models.execute import LayerwiseModel
from moecompress.models.experts import read_expert
from moecompress.models.layouts import TEMPLATES
from moecompress.models.skeleton import Skeleton
from moecompress.models.source import TensorSource
from moecompress.models.write import relaid, write_checkpoint

TOLERANCE = 1e-4


def check_family(folder: str | Path, seed: int = 0) -> None:
    """Everything below. Raises AssertionError, or the error of the part that refused."""
    source = TensorSource.open(folder)
    layout = discover(source)
    check_coverage(source, layout)
    reference = load_reference(source.folder)
    check_forward(source, layout, reference, seed)
    check_experts(source, layout, reference, seed)
    check_rewriting(source, layout)
    check_artifact_layout(source, layout)


def check_coverage(source: TensorSource, layout: ModelLayout) -> None:
    """Every tensor of the checkpoint is claimed exactly once, as an expert's or as a trunk tensor."""
    claims = Counter(tensor.name for tensor in layout.trunk)
    for layer in layout.moe:
        claims.update(layout.expert_names(layer))
    assert claims == Counter(source.names), f"claimed otherwise than once: {claims - Counter(source.names)}"
    assert layout.moe, "no layer with experts was found"


def layerwise_logits(source: TensorSource, layout: ModelLayout, ids: torch.Tensor) -> torch.Tensor:
    """`ids [N, S]` → logits `[N, S, V]`, layer by layer with streamed weights."""
    model = LayerwiseModel(source.config, layout)
    model.load_embedding(source.read)
    hidden = model.embed(ids)
    for index in range(layout.layers):
        model.load_layer(index, source.read, partial(_read, source, layout, index))
        hidden = model.run_layer(hidden)
    model.load_head(source.read)
    return model.head(hidden)


def check_forward(source: TensorSource, layout: ModelLayout, reference: Any, seed: int = 0) -> None:
    """Layer-at-a-time logits equal those of the model that transformers loads from the same folder."""
    ids = random_ids(source, seed)
    with torch.no_grad():
        wanted = reference(ids, use_cache=False).logits
    torch.testing.assert_close(layerwise_logits(source, layout, ids), wanted, rtol=TOLERANCE, atol=TOLERANCE)


def check_experts(source: TensorSource, layout: ModelLayout, reference: Any, seed: int = 0) -> None:
    """The canonical matrices and the activation reproduce what transformers' experts modules return."""
    skeleton = Skeleton(source.config)
    for index, layer in layout.moe.items():
        experts = skeleton.experts_module(index)
        path = next(name for name, module in skeleton.model.named_modules() if module is experts)
        with _recording(reference.get_submodule(path)) as calls, torch.no_grad():
            reference(random_ids(source, seed), use_cache=False)
        inputs, output = calls[0]
        torch.testing.assert_close(_run_experts(source, layer, *inputs), output, rtol=TOLERANCE, atol=TOLERANCE)


def check_rewriting(source: TensorSource, layout: ModelLayout) -> None:
    """Written in every layout of the table and read again, every tensor and every expert is bit-identical.

    transformers loads what is written as the source was, or stacked as it keeps experts in memory.
    """
    for template in TEMPLATES:
        with tempfile.TemporaryDirectory() as temporary:
            wanted = relaid(layout, template.code)
            folder = write_checkpoint(
                Path(temporary) / "again", source.config, wanted, source.read, partial(_read, source, layout),
                assets=source.assets, max_shard_bytes=64 << 10,
            )  # fmt: skip
            _check_same(source, layout, TensorSource.open(folder), wanted)
            if wanted == layout or template.code == "C4":
                load_reference(folder)


def check_artifact_layout(source: TensorSource, layout: ModelLayout) -> None:
    """The trunk's names alone give back the same MoE layers, apart from how experts are stored."""
    trunk = {tensor.name: (tensor.shape, tensor.dtype) for tensor in layout.trunk}
    again = layout_from_trunk(source.config, trunk)
    assert again == relaid(layout, TEMPLATES[0].code), f"{again} differs from {layout}"


def load_reference(folder: Path) -> Any:
    """The model as transformers loads it, in float32; every parameter must come from the checkpoint."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model, info = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], f"transformers reports {problem} {info[problem]} in {folder}"
    return model.eval()


def random_ids(source: TensorSource, seed: int, shape: tuple[int, int] = (2, 24)) -> torch.Tensor:
    """Token ids `[N, S]` below the config's vocabulary size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, source.config["vocab_size"], shape, generator=generator)


def _read(source: TensorSource, layout: ModelLayout, index: int, expert: int) -> Any:
    return read_expert(source, layout.moe[index], expert)


@contextmanager
def _recording(module: torch.nn.Module) -> Iterator[list[Any]]:
    calls: list[Any] = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    try:
        yield calls
    finally:
        handle.remove()


def _run_experts(
    source: TensorSource, layer: MoeLayer, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """`Σ_k weight · down(act(gate x) ⊙ up x)`, expert by expert from canonical matrices."""
    total = torch.zeros_like(hidden)
    act = ACT2FN[layer.activation.kind]
    for expert in range(layer.experts):
        parts = {name: matrix.float() for name, matrix in read_expert(source, layer, expert).items()}
        middle = act(hidden @ parts["gate"].T) * (hidden @ parts["up"].T)
        share = (weights * (index == expert)).sum(dim=-1, keepdim=True)
        total += share * (middle @ parts["down"].T)
    return total


def _check_same(one: TensorSource, layout: ModelLayout, other: TensorSource, wanted: ModelLayout) -> None:
    assert discover(other) == wanted, f"{other.folder} was not discovered as it was written"
    for tensor in layout.trunk:
        assert torch.equal(one.read(tensor.name), other.read(tensor.name)), f"{tensor.name} changed"
        assert one.dtype(tensor.name) == other.dtype(tensor.name), f"{tensor.name} changed its type"
    for index, layer in layout.moe.items():
        for expert in range(layer.experts):
            before, after = read_expert(one, layer, expert), read_expert(other, wanted.moe[index], expert)
            for projection in ("gate", "up", "down"):
                same = torch.equal(before[projection], after[projection])
                assert same, f"expert {expert} {projection} of layer {index} changed"
