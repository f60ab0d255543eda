"""Hit rates of cache policies and recall of predictors over a trace, by the code that the engine runs.

A replayed hit rate is that of a live run which decodes the same tokens one by one, starting with an empty cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moecompress.artifact.priors import Priors
from moecompress.core.errors import UsageError
from moecompress.core.units import parse_size
from moecompress.runtime import _native
from moecompress.runtime.trace import Trace

BELADY = "belady"
DEFAULT_CAPACITIES = ("0.5T", "0.75T", "1T", "1.5T", "2T", "3T")
_NOTHING_SAID = 255


@dataclass(frozen=True)
class Rate:
    """One policy at one capacity: share of choices found in the cache, and bytes read a token."""

    policy: str
    slots: int
    hit_rate: float
    bytes_per_token: float


@dataclass(frozen=True)
class Recall:
    """Share of a token's K experts among the K and 2 K that a predictor names, over the layers where it names any."""

    predictor: str
    recall: float
    recall_twice: float
    predicted: float


def policies() -> tuple[str, ...]:
    """Names of the cache policies, and Belady's optimum last."""
    return (*_native.policy_names(), BELADY)


def slot_bytes(trace: Trace) -> int:
    """What a slot of the cache takes: the largest record."""
    return int(trace.record_bytes.max())


def capacity_slots(text: str, trace: Trace) -> int:
    """Slots of a capacity: `96` experts, `1.5T` token sets, or `600MiB`. Raises UsageError when it cannot be used."""
    most = sum(trace.header.experts)
    try:
        if text.endswith("T"):
            slots = round(float(text[:-1]) * trace.header.token_set)
        else:
            slots = int(text) if text.isdigit() else parse_size(text) // slot_bytes(trace)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is no capacity. Write 96 (experts), 1.5T (token sets) or 600MiB.") from error
    if not trace.header.top_k <= slots <= most:
        raise UsageError(
            f"A capacity of {text} is {slots} experts; this trace can be replayed with {trace.header.top_k} to {most}."
        )
    return slots


def default_slots(trace: Trace) -> list[int]:
    """The usual capacities, as far as the model has more experts than they hold."""
    counts = [round(float(text[:-1]) * trace.header.token_set) for text in DEFAULT_CAPACITIES]
    return [count for count in counts if trace.header.top_k <= count < sum(trace.header.experts)]


def hit_rates(trace: Trace, names: Iterable[str], slots: Iterable[int], skip: int = 0) -> list[Rate]:
    """Every policy at every capacity; the first `skip` tokens fill the cache and are not counted.

    Raises UsageError for a policy that there is none of and a trace that is too short.
    """
    if not 0 <= skip < trace.header.tokens:
        raise UsageError(f"Of {trace.header.tokens} tokens {skip} cannot be skipped.")
    chosen, names = trace.chosen[skip:], list(names)
    sizes = trace.record_bytes[np.arange(chosen.shape[1])[:, None], chosen]
    rates = []
    for count in slots:
        for name in names:
            missed = _replay(trace, name, count)[skip:]
            read = int(sizes[missed != 0].sum())
            rates.append(Rate(name, count, 1 - float(missed.mean()), read / len(chosen)))
    return rates


def _replay(trace: Trace, policy: str, slots: int) -> Any:
    try:
        return _native.replay(trace.chosen, trace.header.experts, policy, slots)[0]
    except ValueError as error:
        raise UsageError(str(error)) from error


def recalls(trace: Trace, priors: Priors | None) -> list[Recall]:
    """Every predictor whose tables there are."""
    names = [name for name in _native.predictor_names() if priors is not None or name == "router"]
    return [recall(trace, name, priors) for name in names]


def recall(trace: Trace, predictor: str, priors: Priors | None) -> Recall:
    """One predictor. Raises UsageError for an unknown one, and for one that needs priors which are not given."""
    once, twice = (_found(trace, predictor, priors, count * trace.header.top_k) for count in (1, 2))
    said = once != _NOTHING_SAID
    most = max(1, int(said.sum()) * trace.header.top_k)
    return Recall(predictor, int(once[said].sum()) / most, int(twice[said].sum()) / most, float(said.mean()))


def _found(trace: Trace, predictor: str, priors: Priors | None, named: int) -> Any:
    experts = trace.header.experts
    tables = None
    if priors is not None:
        tables = (len(experts), max(experts), priors.popularity, priors.one_layer, priors.two_layer)
    weights = trace.weights.astype(np.float32)
    try:
        return _native.recall(trace.chosen, weights, trace.guesses, experts, predictor, tables, named)
    except ValueError as error:
        raise UsageError(str(error)) from error


def report(trace: Trace, rates: Sequence[Rate], recalled: Sequence[Recall], skip: int) -> dict[str, Any]:
    """Plain values for JSON."""
    header = trace.header
    capacities = []
    for slots in dict.fromkeys(rate.slots for rate in rates):
        mine = {rate.policy: rate for rate in rates if rate.slots == slots}
        capacities.append(
            {
                "slots": slots,
                "token_sets": slots / header.token_set,
                "bytes": slots * slot_bytes(trace),
                "hit_rate": {name: rate.hit_rate for name, rate in mine.items()},
                "bytes_per_token": {name: rate.bytes_per_token for name, rate in mine.items()},
            }
        )
    return {
        "artifact_hash": header.artifact_hash,
        "model_type": header.model_type,
        "layers": len(header.layers),
        "experts": sum(header.experts),
        "top_k": header.top_k,
        "token_set": header.token_set,
        "tokens": header.tokens,
        "skipped_tokens": skip,
        "capacities": capacities,
        "predictors": {found.predictor: {**asdict(found), "predictor": found.predictor} for found in recalled},
    }
