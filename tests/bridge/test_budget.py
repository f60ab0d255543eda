import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from moecompress.artifact.reader import read_manifest
from moecompress.bridge.budget import CacheNeeds, free_memory
from moecompress.bridge.experts import store_stats
from moecompress.bridge.load import load_transformers
from moecompress.core.errors import BudgetError, RequestError
from moecompress.runtime import _native
from moecompress.runtime.tables import expert_rows


def logits(model, ids):
    with torch.inference_mode():
        return model(ids).logits


def needs(artifact, top_k=2):
    return CacheNeeds.of(read_manifest(artifact), top_k)


def test_results_do_not_depend_on_the_cache_or_the_threads(case, ids):
    artifact = case("qwen2_moe", 4).artifact
    resident = load_transformers(artifact, threads=1)
    small = load_transformers(artifact, memory=needs(artifact).smallest, threads=2)
    prompt = {"attention_mask": torch.ones((1, 6), dtype=torch.long), "max_new_tokens": 12, "pad_token_id": 0}
    for batch in (ids(1, 1), ids(2, 20), ids(1, 400)):
        assert torch.equal(logits(resident, batch), logits(small, batch))
    texts = [model.generate(ids(1, 6), do_sample=False, **prompt) for model in (resident, small)]
    assert torch.equal(*texts)
    assert store_stats(resident).reads == 16
    assert store_stats(small).reads > 80
    assert store_stats(small).decode_misses > 0


def test_results_do_not_depend_on_the_instruction_set(case):
    manifest = read_manifest(case("mixtral", 4).artifact)
    generator = np.random.default_rng(0)
    hidden = generator.standard_normal((40, 64)).astype(np.float32)
    index = np.stack([generator.permutation(8)[:2] for _ in range(40)])
    weights = generator.random((40, 2), np.float32)
    found = []
    for isa in _native.isa_names():
        rows = expert_rows(manifest)
        experts = _native.RoutedExperts(str(case("mixtral", 4).artifact), rows, 2, slots=2, threads=2, chunk=7, isa=isa)
        found.append(experts.run(1, hidden, index, weights))
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert np.abs(found[0]).max() > 0.1


def test_calls_from_several_threads_take_turns(case, ids):
    artifact = case("mixtral", 4).artifact
    model = load_transformers(artifact, memory=needs(artifact).smallest, threads=2)
    batches = [ids(1, 12, seed) for seed in range(6)]
    wanted = [logits(model, batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda batch: logits(model, batch), batches * 3))
    assert all(torch.equal(found[i], wanted[i % 6]) for i in range(18))


def test_a_row_does_not_depend_on_its_batch(case, ids):
    """Decoding one token and prefilling many use different paths of the core."""
    model = load_transformers(case("olmoe", 4).artifact, threads=1)
    experts = model.model.layers[0].mlp.experts
    hidden = torch.randn((300, 64), generator=torch.Generator().manual_seed(1))
    index = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(s))[:2] for s in range(300)])
    weights = torch.rand((300, 2), generator=torch.Generator().manual_seed(2))
    together = experts(hidden, index, weights)
    for row in (0, 1, 255, 256, 299):
        alone = experts(hidden[row : row + 1], index[row : row + 1], weights[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_too_little_memory_is_refused_with_what_would_do(case):
    artifact = case("olmoe", 4).artifact
    smallest = needs(artifact).smallest
    with pytest.raises(BudgetError, match=f"The smallest `memory` that works is {smallest} bytes"):
        load_transformers(artifact, memory=smallest - 1)
    load_transformers(artifact, memory=smallest)
    with pytest.raises(BudgetError, match="too little: 2 run per token"):
        load_transformers(artifact, memory="1KiB")


def test_slots_follow_from_the_budget():
    found = CacheNeeds(top_k=2, experts=64, slot=100, all_experts=6000)
    assert found.smallest == 400
    assert [found.slots(budget) for budget in (400, 499, 500, 5999, 6000, 10**9)] == [4, 4, 5, 59, 0, 0]
    few = CacheNeeds(top_k=4, experts=6, slot=100, all_experts=520)
    assert few.smallest == 520
    assert few.slots(520) == 0


def test_the_default_budget_leaves_room_for_the_trunk(case):
    manifest = read_manifest(case("olmoe", 4).artifact)
    parameters = sum(tensor.parameters for tensor in manifest.trunk.values())
    difference = free_memory(manifest, 0) - free_memory(manifest, 1 << 20)
    assert difference == pytest.approx(parameters << 20, abs=1 << 30)


def test_a_failed_read_ends_the_request_and_nothing_else(case, ids):
    artifact = case("mixtral", 2).artifact
    model = load_transformers(artifact, memory=needs(artifact).smallest, threads=1)
    wanted = logits(model, ids())
    path = artifact / "experts-00001.safetensors"
    whole = path.read_bytes()
    try:
        os.truncate(path, len(whole) // 2)
        with pytest.raises(RequestError, match=r"experts-00001\.safetensors"):
            logits(model, ids())
    finally:
        path.write_bytes(whole)
    assert torch.equal(logits(model, ids()), wanted)
