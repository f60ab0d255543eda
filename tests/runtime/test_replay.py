"""Replay against live runs of the engine, its figures against counting, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from moecompress.artifact.priors import Priors
from moecompress.calibration.priors import routing_priors
from moecompress.core.errors import UsageError
from moecompress.runtime import _native
from moecompress.runtime.engine import Engine
from moecompress.runtime.replay import (
    capacity_slots,
    default_slots,
    hit_rates,
    policies,
    recall,
    recalls,
    report,
    slot_bytes,
)
from moecompress.runtime.trace import Sequence, Trace, TraceHeader
from moecompress.testing.policy_checks import random_routing

LAYERS, TOP_K = 4, 2


@pytest.fixture(scope="module")
def deep(encoded):
    """An artifact of four layers of eight experts."""
    return encoded("qwen3_moe", num_hidden_layers=LAYERS)[0]


def traced(chosen, experts, guesses=None, sizes=None) -> Trace:
    """A trace of these choices."""
    tokens, layers, top_k = chosen.shape
    guesses = np.full((tokens, layers, 1), 0xFFFF, np.uint16) if guesses is None else guesses
    header = TraceHeader(
        artifact_hash="ab" * 32,
        model_type="mixtral",
        top_k=top_k,
        guesses=guesses.shape[2],
        layers=tuple(range(layers)),
        experts=tuple(experts),
        sequences=(Sequence(name="a", tokens=tokens),),
    )
    if sizes is None:
        sizes = np.where(np.arange(max(experts)) < np.array(experts)[:, None], 4096, 0)
    return Trace(header, chosen, np.full(chosen.shape, 1 / top_k, np.float16), guesses, sizes.astype(np.int64))


def lived(artifact, policy: str, slots: int, prompt: list[int], tokens: int, seed: int):
    """Hits of a live generation and its choices, of decoded tokens; and the ids that were run, prompt first."""
    with Engine.open(artifact, threads=1, slots=slots, policy=policy) as engine:
        result = engine.generate(prompt, max_tokens=tokens, temperature=1.5, seed=seed).run()
        stats = engine.store_stats()
    ids = [*prompt, *result.token_ids[:-1]]
    return stats.decode_hits, stats.decode_hits + stats.decode_misses, ids


def choices(artifact, ids: list[int]):
    with Engine.open(artifact, threads=1) as engine:
        return np.concatenate([part[0] for part in engine.routing(ids)])


@pytest.mark.parametrize("policy", _native.policy_names())
@pytest.mark.parametrize("slots", [2, 7, 12, 24])
def test_replay_is_the_live_run(deep, policy, slots):
    hits, looked_up, ids = lived(deep, policy, slots, [17], tokens=150, seed=3)
    missed, _ = _native.replay(choices(deep, ids), [8] * LAYERS, policy, slots)
    assert looked_up == missed.size > 800
    assert hits == looked_up - missed.sum()


@pytest.mark.parametrize("policy", _native.policy_names())
def test_replay_is_within_half_a_point_of_live_runs_behind_prompts(deep, policy):
    prompt, live, replayed, total = [9, 8, 7, 6], 0, 0, 0
    for seed in (5, 6):
        hits, looked_up, ids = lived(deep, policy, 12, prompt, tokens=480, seed=seed)
        missed, _ = _native.replay(choices(deep, ids), [8] * LAYERS, policy, 12)
        live, total = live + hits, total + looked_up
        replayed += looked_up - int(missed[len(prompt) :].sum())
    assert total > 4000
    assert abs(replayed - live) / total < 0.005


def test_rates_and_bytes_are_counted_over_the_tokens_that_are_not_skipped():
    experts = [5, 4]
    chosen = random_routing(experts, 2, tokens=50, seed=2)
    sizes = np.array([[4096, 8192, 4096, 4096, 16384], [4096, 4096, 4096, 12288, 0]])
    trace = traced(chosen, experts, sizes=sizes)
    (rate,) = hit_rates(trace, ["lru"], [5], skip=10)
    missed = _native.replay(chosen, experts, "lru", 5)[0][10:].astype(bool)
    read = sum(int(sizes[layer, chosen[10 + t, layer, k]]) for t, layer, k in np.argwhere(missed))
    assert rate.hit_rate == pytest.approx(1 - missed.mean())
    assert rate.bytes_per_token == pytest.approx(read / 40)


def test_no_policy_beats_belady_and_more_room_never_hurts_it():
    trace = traced(random_routing([8] * 4, 2, tokens=300, seed=0), [8] * 4)
    rates = hit_rates(trace, policies(), [4, 8, 12, 16])
    best = [rate.hit_rate for rate in rates if rate.policy == "belady"]
    assert best == sorted(best)
    for rate in rates:
        assert rate.hit_rate <= best[[4, 8, 12, 16].index(rate.slots)]


@pytest.mark.parametrize(
    ("text", "slots"), [("9", 9), ("1.5T", 12), ("0.5T", 4), ("40960B", 10), ("40KiB", 10), ("32", 32)]
)
def test_capacities_are_experts_token_sets_or_bytes(text, slots):
    trace = traced(random_routing([8] * 4, 2, tokens=9, seed=0), [8] * 4)
    assert slot_bytes(trace) == 4096
    assert capacity_slots(text, trace) == slots


@pytest.mark.parametrize("text", ["", "T", "x", "1", "33", "0.1T", "nanT", "1e999T", "4KiB", "-2", "3 apples"])
def test_capacities_that_cannot_be_are_refused(text):
    trace = traced(random_routing([8] * 4, 2, tokens=9, seed=0), [8] * 4)
    with pytest.raises(UsageError):
        capacity_slots(text, trace)


def test_usual_capacities_are_smaller_than_the_model():
    assert default_slots(traced(random_routing([8] * 4, 2, tokens=9, seed=0), [8] * 4)) == [4, 6, 8, 12, 16, 24]
    assert default_slots(traced(random_routing([4] * 4, 2, tokens=9, seed=0), [4] * 4)) == [4, 6, 8, 12]


def test_unknown_policies_and_too_many_skipped_tokens_are_refused():
    trace = traced(random_routing([8] * 4, 2, tokens=9, seed=0), [8] * 4)
    with pytest.raises(UsageError, match="Unknown cache policy 'mru'"):
        hit_rates(trace, ["mru"], [8])
    with pytest.raises(UsageError, match="Of 9 tokens 9 cannot be skipped"):
        hit_rates(trace, ["lru"], [8], skip=9)


def priors_of(chosen, experts) -> Priors:
    return routing_priors([chosen[:, layer] for layer in range(len(experts))], experts, len(chosen))


def test_predictors_name_what_the_tables_say():
    experts = [6, 6, 6]
    chosen = random_routing(experts, 2, tokens=600, seed=4)
    chosen[:, 1] = (chosen[:, 0] + 1) % 6  # certain, once layer 0 is known
    train, test = chosen[:300], np.ascontiguousarray(chosen[300:])
    found = {item.predictor: item for item in recalls(traced(test, experts), priors_of(train, experts))}
    assert found["edgemoe"].recall > found["popularity"].recall > 2 / 6
    assert found["edgemoe"].recall_twice >= found["edgemoe"].recall
    assert found["edgemoe"].predicted == found["popularity"].predicted == 1 and found["router"].predicted == 0
    best = np.frombuffer(priors_of(train, experts).popularity, "<f4").reshape(3, -1).argsort(axis=1)[:, -2:]
    named = np.mean([expert in best[layer] for row in test for layer, pair in enumerate(row) for expert in pair])
    assert found["popularity"].recall == pytest.approx(named)


def test_the_carried_router_names_what_was_recorded():
    experts = [6, 6]
    chosen = random_routing(experts, 2, tokens=10, seed=4)
    guesses = np.full((10, 2, 4), 0xFFFF, np.uint16)
    guesses[:, 1, :2] = (chosen[:, 1] + [0, 1]) % 6
    guesses[:, 1, 2:] = (chosen[:, 1] + 3) % 6
    pairs = zip(chosen[:, 1], guesses[:, 1, :2], strict=True)
    expected = np.mean([expert in guess for row, guess in pairs for expert in row])
    found = recall(traced(chosen, experts, guesses), "router", None)
    assert found.recall == pytest.approx(expected) and found.predicted == 0.5


def test_without_priors_only_the_router_predicts():
    trace = traced(random_routing([8] * 2, 2, tokens=9, seed=0), [8] * 2)
    assert [item.predictor for item in recalls(trace, None)] == ["router"]
    with pytest.raises(UsageError, match="'edgemoe' needs priors"):
        recall(trace, "edgemoe", None)
    with pytest.raises(UsageError, match="Unknown predictor 'oracle'"):
        recall(trace, "oracle", None)
    with pytest.raises(UsageError, match="A table of priors has 32 bytes"):
        recall(trace, "popularity", priors_of(random_routing([4] * 2, 2, tokens=9, seed=0), [4] * 2))


def test_a_report_is_plain_values():
    trace = traced(random_routing([8] * 4, 2, tokens=30, seed=0), [8] * 4)
    plain = report(trace, hit_rates(trace, ["lru", "belady"], [8, 12], 5), recalls(trace, None), 5)
    assert plain["token_set"] == 8 and plain["tokens"] == 30 and plain["skipped_tokens"] == 5
    assert [(c["slots"], c["token_sets"], c["bytes"]) for c in plain["capacities"]] == [(8, 1, 32768), (12, 1.5, 49152)]
    assert set(plain["capacities"][0]["hit_rate"]) == {"lru", "belady"}
    assert set(plain["predictors"]["router"]) == {"predictor", "recall", "recall_twice", "predicted"}
