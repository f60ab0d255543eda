"""The memory ledger: how a budget is spent, what is refused, and that a process keeps to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moecompress.core import memory
from moecompress.core.errors import BudgetError
from moecompress.core.units import parse_size
from moecompress.runtime import ledger
from moecompress.runtime.ledger import Demand, Needs, default_budget, plan_memory
from moecompress.testing.control_group import memory_group
from moecompress.testing.native import Bits

MIB = 1 << 20


def _demand(experts: int = 64, **changes: Any) -> Demand:
    def needs(chunk: int) -> Needs:
        return Needs(
            trunk=20 * MIB,
            key_value=8 * MIB,
            scratch=chunk * MIB // 16,
            sampling=MIB,
            slot=MIB,
            all_experts=experts * MIB,
            experts=experts,
        )

    values = {"top_k": 4, "context": 512, "threads": 4, "interpreter": 50 * MIB, "peak": 55 * MIB, **changes}
    return Demand(needs=needs, **values)


def test_everything_stays_resident_when_it_fits():
    plan = plan_memory(_demand(), 500 * MIB)
    assert plan.resident and plan.slots == 0 and plan.cache == 64 * MIB
    assert plan.planned <= plan.budget and plan.chunk == 256
    assert plan.interpreter == 50 * MIB and plan.as_dict()["resident"] is True


def test_the_parts_are_all_there_is():
    plan = plan_memory(_demand(logits=3 * MIB), 300 * MIB)
    assert sum(plan.parts().values()) == plan.planned == plan.budget - plan.spare
    assert plan.logits == 3 * MIB and plan.scratch == 17 * MIB


@pytest.mark.parametrize("budget", [110, 120, 140, 150])
def test_what_is_left_becomes_slots_and_nothing_is_over(budget):
    plan = plan_memory(_demand(), budget * MIB)
    assert not plan.resident and 8 <= plan.slots < 64
    assert plan.cache == plan.slots * MIB
    assert 0 <= plan.spare < MIB


def test_long_prompts_get_larger_chunks_when_there_is_room():
    chunks = [plan_memory(_demand(), budget * MIB).chunk for budget in (105, 120, 145, 200)]
    assert chunks == sorted(chunks) and chunks[0] < chunks[-1]


def test_the_resident_size_is_the_smallest_budget_that_gives_up_nothing():
    demand = _demand()
    assert plan_memory(demand, demand.resident).resident
    assert not plan_memory(demand, demand.resident - 1).resident


def test_larger_budgets_keep_more_experts():
    demand = _demand()
    kept = [plan_memory(demand, demand.floor + more * MIB).slots or 64 for more in (0, 20, 40, 90)]
    assert kept == sorted(set(kept)) and kept[0] == 8 and kept[-1] == 64


def test_a_budget_below_the_floor_is_refused_with_the_smallest_that_works():
    with pytest.raises(BudgetError) as refused:
        plan_memory(_demand(), 60 * MIB)
    smallest = int(re.search(r"smallest that works is (\d+) MiB", str(refused.value)).group(1)) * MIB
    assert refused.value.exit_code == 2 and "context of 512" in str(refused.value)
    assert plan_memory(_demand(), smallest).slots >= 8
    assert plan_memory(_demand(), _demand().floor).slots == 8
    with pytest.raises(BudgetError):
        plan_memory(_demand(), _demand().floor - 1)


def test_memory_that_was_used_before_counts():
    with pytest.raises(BudgetError, match=r"30[12] MiB"):
        plan_memory(_demand(peak=300 * MIB), 200 * MIB)


def test_a_model_with_few_experts_needs_no_more_slots_than_experts():
    demand = _demand(experts=3)
    assert demand.least_cache == 3 * MIB
    assert demand.floor == demand.resident and plan_memory(demand, demand.floor).resident


def test_longer_contexts_set_aside_memory_for_their_text():
    short, long = (plan_memory(_demand(context=context), 700 * MIB).text for context in (4096, 131072))
    assert 4 * MIB < short < 8 * MIB and long == 32 * short


def test_the_default_is_a_share_of_what_can_be_had(monkeypatch):
    monkeypatch.setattr(memory, "obtainable_bytes", lambda: 100 * MIB)
    assert default_budget() == int(100 * MIB * ledger._FREE_SHARE)


RUN = """
import json, sys
from moecompress.core.errors import BudgetError
from moecompress.runtime.engine import Engine
Engine.end_ids = frozenset()  # so that no text ends early
artifact, options, prompt, request = sys.argv[1], *map(json.loads, sys.argv[2:])
try:
    engine = Engine.open(artifact, **options)
except BudgetError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
result = engine.generate(prompt, **request).run()
print(json.dumps({**result.as_dict(), "slots": engine.plan.slots, "torch": "torch" in sys.modules}))
"""


def _run(artifact: Path, options: dict, prompt: str = "a story ", **request: Any) -> dict:
    arguments = [json.dumps(value) for value in ({"threads": 2, **options}, prompt, {"max_tokens": 40, **request})]
    done = subprocess.run([sys.executable, "-c", RUN, artifact, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _smallest(artifact: Path, **options: Any) -> int:
    refused = _run(artifact, {**options, "memory": 1})["refused"]
    return parse_size(re.search(r"works is (\d+ MiB)", refused).group(1))


def _held(outcome: dict) -> dict:
    assert outcome["peak_rss_bytes"] <= outcome["budget_bytes"] and not outcome["torch"]
    return outcome


def test_a_process_keeps_to_its_budget_from_the_floor_upwards(encoded):
    artifact, _ = encoded("olmoe", Bits(16, 16), intermediate_size=256, num_experts=32, hidden_size=128)
    smallest, texts, slots = _smallest(artifact, context=500), set(), []
    for budget in (smallest, smallest + 5 * MIB, 400 * MIB):
        request = {"prompt": "the story of " * 30, "max_tokens": 120, "temperature": 0.9, "top_p": 0.9}
        outcome = _held(_run(artifact, {"memory": budget, "context": 500}, **request))
        assert outcome["budget_bytes"] == budget and outcome["completion_tokens"] == 120
        texts.add(outcome["text"])
        slots.append(outcome["slots"])
    assert 4 <= slots[0] < slots[1] < 64 and slots[2] == 0
    assert len(texts) == 1


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_process_keeps_to_the_smallest_budget_at_every_bit_width(encoded, bits):
    artifact, _ = encoded("qwen3_moe", Bits(bits, bits), num_experts=32, hidden_size=128, moe_intermediate_size=512)
    outcome = _held(_run(artifact, {"memory": _smallest(artifact)}, "the story " * 20))
    assert 4 <= outcome["slots"] < 64


def test_a_long_context_filled_by_its_prompt_stays_within_the_smallest_budget(encoded):
    artifact, _ = encoded("olmoe", Bits(4, 8), max_position_embeddings=8192)
    options = {"context": 4096, "memory": _smallest(artifact, context=4096)}
    outcome = _held(_run(artifact, options, "the story goes on and on " * 220, max_tokens=9999))
    assert outcome["prompt_tokens"] > 3000
    assert outcome["prompt_tokens"] + outcome["completion_tokens"] == 4096 + 1


REFUSED = """
import json, sys
from moecompress.core.errors import RequestError
from moecompress.core.memory import peak_rss_bytes
from moecompress.runtime.engine import Engine
engine = Engine.open(sys.argv[1], threads=2, memory=int(sys.argv[2]))
words = []
for prompt in ("the story " * 2_000_000, "日本 " * 4000, "x1" * 1500):
    try:
        engine.generate(prompt)
    except RequestError as error:
        words.append(str(error))
print(json.dumps({"peak": peak_rss_bytes() - 3 * len("the story " * 2_000_000), "words": words}))
"""


def test_prompts_far_too_long_are_refused_within_the_budget(artifact):
    smallest = _smallest(artifact)
    arguments = [sys.executable, "-c", REFUSED, artifact, str(smallest)]
    outcome = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    assert outcome["peak"] <= smallest
    assert len(outcome["words"]) == 3 and all("context is 512" in words for words in outcome["words"])


@pytest.mark.slow
@pytest.mark.parametrize("more", [0, 4 * MIB, 40 * MIB])
def test_the_kernel_never_kills_in_a_group_of_the_budget_and_5_percent(encoded, more):
    artifact, _ = encoded("olmoe", Bits(16, 16), max_position_embeddings=4096, num_experts=32, intermediate_size=512)
    budget = _smallest(artifact, context=4096) + more
    options = {"threads": 2, "context": 4096, "memory": budget}
    arguments = [json.dumps(value) for value in (options, "the story goes on " * 200, {"max_tokens": 300})]
    command = [sys.executable, "-c", RUN, str(artifact), *arguments]
    with memory_group(budget * 105 // 100) as group:
        done = subprocess.run(group.command(command) if group else command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert group is None or (group.kills == 0 and group.peak <= budget * 105 // 100)
    outcome = _held(json.loads(done.stdout))
    assert outcome["completion_tokens"] == 300


@pytest.mark.slow
def test_without_a_budget_the_group_decides(artifact):
    arguments = [json.dumps(value) for value in ({"threads": 1}, "a story", {"max_tokens": 8})]
    command = [sys.executable, "-c", RUN, str(artifact), *arguments]
    with memory_group(90 * MIB) as group:
        done = subprocess.run(group.command(command) if group else command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    budget = json.loads(done.stdout)["budget_bytes"]
    assert 60 * MIB < budget <= 90 * MIB if group else budget > 0
