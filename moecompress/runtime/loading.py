"""From an artifact's folder to a model in memory: tables, tokenizer, ledger, then the core, in that order."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from moecompress.artifact.manifest import Manifest
from moecompress.artifact.reader import ArtifactReader
from moecompress.core import memory
from moecompress.core.errors import ArtifactError, RequestError, UsageError
from moecompress.core.registry import nearest
from moecompress.core.units import parse_size
from moecompress.runtime import _native
from moecompress.runtime.families.base import Architecture
from moecompress.runtime.ledger import Demand, MemoryPlan, Needs, default_budget, plan_memory
from moecompress.runtime.tables import Tables, read_tables
from moecompress.runtime.tokenizer import (
    GENERATION,
    SETTINGS,
    TEMPLATE,
    TOKENIZER,
    Tokenizer,
    TokenizerFiles,
    parse_json,
)

DEFAULT_CONTEXT = 4096
_NUMPY_BYTES = 16 << 20
_SPECULATION = ("off", "auto", "on")
_Priors = tuple[int, int, bytes, bytes, bytes]
_PRIORS_COPIES = 2  # the predictor's, and the one that is handed to it
_WAYS = ("automatic", "direct", "buffered")
_KEY_VALUES = ("int16", "int8")


@dataclass(frozen=True)
class LoadOptions:
    """budget: bytes, None for what the machine can give. context: None for 4096 or what the model was trained for.

    slots: cache no more experts than this, for studies. lanes: reader threads. io: `direct` and `buffered` insist on a
    way of reading, `automatic` reads past the page cache where that works. policy: which expert to give up.
    speculation: read experts that a coming layer is likely to want while the disk is idle, `off`, `on`, or `auto`:
    while it pays. predictor: how they are told. overlap: compute while experts are read. isa: a kernel path, empty for
    the best. chunk: tokens of a prompt worked on at once, None for what the budget suggests. logits: tokens for which
    `Engine.logits` will be asked at once; text is generated without. aside: bytes of the budget that the caller needs.
    None of these changes a bit of the output. kv: `int8` halves the key-value cache and changes the output (`lossy`).
    """

    budget: int | None = None
    threads: int = 1
    context: int | None = None
    slots: int | None = None
    lanes: int = 2
    io: str = "automatic"
    policy: str = "lru"
    speculation: str = "off"
    predictor: str = "router"
    overlap: bool = True
    isa: str = ""
    chunk: int | None = None
    logits: int = 0
    kv: str = "int16"
    aside: int = 0

    @classmethod
    def of(
        cls,
        memory: int | str | None = None,
        threads: int | None = None,
        context: int | None = None,
        **options: Any,
    ) -> Self:
        """Options as users give them: memory in bytes or as a text such as 600MiB, threads by default all cores."""
        budget = None if memory is None else parse_size(memory)
        workers = len(os.sched_getaffinity(0)) if threads is None else threads
        return cls(budget=budget, threads=workers, context=context, **options)

    def __post_init__(self) -> None:
        for name, most in (("threads", 1024), ("lanes", 64), ("context", 1 << 24), ("slots", 1 << 31), ("chunk", 4096)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise UsageError(f"{name} = {value} is not possible; it must lie between 1 and {most}.")
        names = {
            "policy": _native.policy_names(),
            "speculation": _SPECULATION,
            "predictor": _native.predictor_names(),
            "io": _WAYS,
            "isa": _native.isa_names(),
            "kv": _KEY_VALUES,
        }
        for name, allowed in names.items():
            value = getattr(self, name)
            if value not in allowed and not (name == "isa" and value == ""):
                raise UsageError(f"{name} = {value!r} is not possible.{nearest(str(value), list(allowed))}")

    @property
    def lossy(self) -> tuple[str, ...]:
        """The options that are set and change the output, such as `kv=int8`."""
        return () if self.kv == "int16" else (f"kv={self.kv}",)


@dataclass(frozen=True)
class Described:
    """An artifact without its weights: what must be known to plan, and to talk to it."""

    folder: Path
    manifest: Manifest
    tables: Tables
    tokenizer: Tokenizer | None


@dataclass(frozen=True)
class Prepared:
    """An artifact that is planned for and not loaded: the memory it will take can be shown first."""

    described: Described
    options: LoadOptions
    priors: _Priors | None
    plan: MemoryPlan


@dataclass(frozen=True)
class Loaded:
    """A model in memory and what describes it."""

    manifest: Manifest
    architecture: Architecture
    tokenizer: Tokenizer | None
    plan: MemoryPlan
    lossy: tuple[str, ...]
    model: Any


def popularity(folder: Path) -> list[float]:
    """Share of tokens that each expert served while the artifact was calibrated, layer by layer; empty if not known."""
    with ArtifactReader(folder) as reader:
        priors, experts = reader.priors(), [len(layer.experts) for layer in reader.manifest.experts]
    if priors is None:
        return []
    table, most = array("f", bytes(priors.popularity)), max(experts)
    return [share for layer, count in enumerate(experts) for share in table[layer * most : layer * most + count]]


def prepare(folder: Path, options: LoadOptions) -> Prepared:
    """Describe an artifact and plan its memory. Raises BudgetError, ArtifactError, UnsupportedModelError or UsageError.

    Nothing is loaded but what the plan counts as the interpreter's.
    """
    described = describe(folder)
    priors = _priors(folder, described.tables, options)
    asked = demand(described.tables, options, sum(len(table) for table in priors[2:]) if priors else 0)
    return Prepared(described, options, priors, _plan(asked, options))


def load(prepared: Prepared) -> Loaded:
    """Read an artifact into a model. Raises ArtifactError or RequestError."""
    described = prepared.described
    architecture = described.tables.architecture
    lossy = prepared.options.lossy
    return Loaded(described.manifest, architecture, described.tokenizer, prepared.plan, lossy, _model(prepared))


def describe(folder: Path) -> Described:
    """Read all of an artifact but its weights. Raises ArtifactError or UnsupportedModelError."""
    with ArtifactReader(folder) as reader:
        described = Described(folder, reader.manifest, read_tables(reader.manifest), _tokenizer(reader))
    _native.tidy_heap()
    return described


def demand(tables: Tables, options: LoadOptions, priors_bytes: int = 0) -> Demand:
    """What a model asks of the ledger in this process. Raises UsageError for a context it was not trained for."""
    architecture = tables.architecture
    most = architecture.sizes.max_positions
    context = min(DEFAULT_CONTEXT, most) if options.context is None else options.context
    if not 1 <= context <= most:
        raise UsageError(f"A context of {context} tokens is not possible; this model was trained for 1 to {most}.")

    @cache
    def needs(chunk: int) -> Needs:
        with _artifact_errors():
            flags = architecture.flags()
            return Needs(**_native.memory_needs(flags, tables.trunk, tables.experts, context, chunk, options.kv))

    return Demand(
        needs,
        architecture.top_k,
        context,
        options.threads + options.lanes,
        interpreter=memory.rss_bytes(),
        peak=memory.peak_rss_bytes(),
        logits=logits_bytes(architecture.sizes.vocabulary, options.logits),
        predictor=_PRIORS_COPIES * priors_bytes,
        aside=options.aside,
    )


def logits_bytes(vocabulary: int, tokens: int) -> int:
    """Memory for the logits of that many tokens as an array, and for numpy when it was not imported yet."""
    if tokens == 0:
        return 0
    return 4 * tokens * vocabulary + (0 if "numpy" in sys.modules else _NUMPY_BYTES)


def _tokenizer(reader: ArtifactReader) -> Tokenizer | None:
    present = reader.manifest.files
    if TOKENIZER not in present:
        return None

    def mapping(name: str) -> Mapping[str, Any]:
        return parse_json(reader.asset(name), name) if name in present else {}

    template = reader.asset(TEMPLATE).decode(errors="replace") if TEMPLATE in present else None
    return Tokenizer(
        TokenizerFiles(
            tokenizer=reader.asset(TOKENIZER),
            settings=mapping(SETTINGS),
            generation=mapping(GENERATION),
            config=reader.manifest.architecture.config,
            template=template,
        )
    )


def _plan(demand: Demand, options: LoadOptions) -> MemoryPlan:
    plan = plan_memory(demand, default_budget() if options.budget is None else options.budget)
    return plan if options.slots is None else _limited(plan, demand.needs(plan.chunk), options.slots, demand.top_k)


def _limited(plan: MemoryPlan, needs: Needs, slots: int, top_k: int) -> MemoryPlan:
    """The plan with at most `slots` slots."""
    most = needs.experts if plan.resident else plan.slots
    if not top_k <= slots <= most:
        raise UsageError(f"slots = {slots} is not possible; with this memory it must lie between {top_k} and {most}.")
    return replace(plan, slots=slots, cache=min(slots * needs.slot, plan.cache))


def _priors(folder: Path, tables: Tables, options: LoadOptions) -> _Priors | None:
    """What the artifact says about routing, for predictors that go by it."""
    if options.speculation == "off" or options.predictor == "router":
        return None
    with ArtifactReader(folder) as reader:
        priors = reader.priors()
    if priors is None:
        return None
    experts = [len(rows) for _, _, rows in tables.experts]
    return len(experts), max(experts), bytes(priors.popularity), bytes(priors.one_layer), bytes(priors.two_layer)


def core_options(plan: MemoryPlan, options: LoadOptions, priors: _Priors | None) -> dict[str, Any]:
    """The options by the names under which the core reads them."""
    return {
        "threads": options.threads,
        "context": plan.context,
        "chunk": options.chunk or plan.chunk,
        "isa": options.isa,
        "slots": plan.slots,
        "lanes": options.lanes,
        "policy": options.policy,
        "io": options.io,
        "speculation": options.speculation,
        "predictor": options.predictor,
        "priors": priors,
        "overlap": options.overlap,
        "kv": options.kv,
    }


def _model(prepared: Prepared) -> Any:
    described, tables = prepared.described, prepared.described.tables
    values = core_options(prepared.plan, prepared.options, prepared.priors)
    folder = str(described.folder)
    with _artifact_errors():
        return _native.Model(folder, tables.architecture.flags(), tables.trunk, tables.experts, values)


@contextmanager
def _artifact_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    except _native.ReadError as error:
        raise RequestError(str(error)) from error
