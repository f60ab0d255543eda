"""Everything of a model but its routed experts, from an artifact into a transformers model on `meta`."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn

from moecompress.artifact.reader import ArtifactReader
from moecompress.codecs.table import codec_of
from moecompress.core.errors import ArtifactError
from moecompress.models.skeleton import Skeleton


def fill_trunk(skeleton: Skeleton, reader: ArtifactReader, experts: Iterable[nn.Module]) -> None:
    """Give every parameter and persistent buffer outside the `experts` modules its dequantised value; tie what is tied.

    Values have the type the skeleton was built with, or float32 where transformers insists on it. Raises ArtifactError
    for a tensor without a place or of another shape, and for a place without a tensor.
    """
    model = skeleton.model
    modules = dict(model.named_modules())
    places = _places(skeleton, modules, experts)
    for name, entry in reader.manifest.trunk.items():
        place = skeleton.place(name)
        if place is None or place not in places:
            raise ArtifactError(f"{type(model).__name__} has no place for the artifact's tensor {name!r}.")
        empty = places.pop(place)
        if tuple(empty.shape) != entry.shape:
            raise ArtifactError(
                f"The artifact's tensor {name!r} has the shape {list(entry.shape)}; its config asks for "
                f"{list(empty.shape)}."
            )
        owner, _, attribute = place.rpartition(".")
        _assign(modules[owner], attribute, _read(reader, name).to(_dtype(skeleton, place, empty)))
    missing = set(places)
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    if missing:
        raise ArtifactError(f"The artifact has no tensor for {min(missing)!r} ({len(missing)} missing in all).")


def _places(skeleton: Skeleton, modules: dict[str, nn.Module], experts: Iterable[nn.Module]) -> dict[str, torch.Tensor]:
    served = {id(module) for module in experts}
    prefixes = tuple(f"{name}." for name, module in modules.items() if id(module) in served)
    return {name: tensor for name, tensor in skeleton.parameters.items() if not name.startswith(prefixes)}


def _read(reader: ArtifactReader, name: str) -> torch.Tensor:
    weight = reader.trunk(name)
    return torch.from_numpy(codec_of(weight.spec).dequantize(weight))


def _dtype(skeleton: Skeleton, place: str, empty: torch.Tensor) -> torch.dtype:
    plan = skeleton.model._get_dtype_plan(empty.dtype)
    return next((dtype for part, dtype in plan.items() if fnmatchcase(place, f"*{part}*")), empty.dtype)


def _assign(module: nn.Module, name: str, value: torch.Tensor) -> None:
    if name in dict(module.named_buffers(recurse=False)):
        setattr(module, name, value)
    else:
        setattr(module, name, nn.Parameter(value, requires_grad=False))
