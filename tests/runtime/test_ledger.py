"""The memory ledger: how a budget is spent, what is refused, and that a process keeps to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moecompress.core import memory
from moecompress.core.errors import BudgetError
from moecompress.core.units import parse_size
from moecompress.runtime import ledger
from moecompress.runtime.ledger import Demand, Needs, default_budget, plan_memory

MIB = 1 << 20


@pytest.fixture(autouse=True)
def interpreter_of_50_mib(monkeypatch):
    monkeypatch.setattr(memory, "rss_bytes", lambda: 50 * MIB)
    monkeypatch.setattr(memory, "peak_rss_bytes", lambda: 55 * MIB)


def _demand(**changes: int) -> Demand:
    def needs(chunk: int) -> Needs:
        return Needs(
            trunk=20 * MIB,
            key_value=8 * MIB,
            scratch=chunk * MIB // 16,
            sampling=0,
            slot=MIB,
            all_experts=64 * MIB,
            experts=64,
        )

    values = {"top_k": 4, "context": 512, "threads": 4, **changes}
    return Demand(needs=needs, **values)


def test_everything_stays_resident_when_it_fits():
    plan = plan_memory(_demand(), 500 * MIB)
    assert plan.resident and plan.slots == 0 and plan.cache == 64 * MIB
    assert plan.planned <= plan.budget and plan.chunk == 256
    assert plan.interpreter == 50 * MIB and plan.as_dict()["resident"] is True


@pytest.mark.parametrize("budget", [110, 120, 140, 150])
def test_what_is_left_becomes_slots_and_nothing_is_over(budget):
    plan = plan_memory(_demand(), budget * MIB)
    assert not plan.resident and 8 <= plan.slots < 64
    assert plan.cache == plan.slots * MIB
    assert plan.budget - MIB < plan.planned <= plan.budget


def test_long_prompts_get_larger_chunks_when_there_is_room():
    chunks = [plan_memory(_demand(), budget * MIB).chunk for budget in (105, 120, 150, 200)]
    assert chunks == sorted(chunks) and chunks[0] < chunks[-1]


def test_a_budget_below_the_floor_is_refused_with_the_smallest_that_works():
    with pytest.raises(BudgetError) as refused:
        plan_memory(_demand(), 60 * MIB)
    smallest = int(re.search(r"smallest that works is (\d+) MiB", str(refused.value)).group(1)) * MIB
    assert refused.value.exit_code == 2 and "context of 512" in str(refused.value)
    plan = plan_memory(_demand(), smallest)
    assert plan.slots >= 8 and plan.planned <= smallest
    with pytest.raises(BudgetError):
        plan_memory(_demand(), smallest - 3 * MIB)


def test_memory_that_was_used_before_counts(monkeypatch):
    monkeypatch.setattr(memory, "peak_rss_bytes", lambda: 300 * MIB)
    with pytest.raises(BudgetError, match=r"30[12] MiB"):
        plan_memory(_demand(), 200 * MIB)


def test_a_model_with_few_experts_needs_no_more_slots_than_experts():
    def needs(chunk: int) -> Needs:
        return Needs(trunk=MIB, key_value=MIB, scratch=MIB, sampling=0, slot=MIB, all_experts=3 * MIB, experts=3)

    plan = plan_memory(Demand(needs, top_k=2, context=16, threads=1), 70 * MIB)
    assert plan.resident


@pytest.mark.parametrize(("group", "expected"), [(None, 150), (400, 150), (100, 100)])
def test_the_default_is_a_share_of_what_the_machine_or_its_cgroup_gives(monkeypatch, group, expected):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 * MIB)
    monkeypatch.setattr(memory, "cgroup_limit_bytes", lambda: None if group is None else group * MIB)
    assert default_budget() == int(expected * MIB * ledger._FREE_SHARE)


RUN = """
import json, sys
from moecompress.core.errors import BudgetError
from moecompress.runtime.engine import Engine
try:
    engine = Engine.open(sys.argv[1], memory=sys.argv[2], threads=2, context=500)
except BudgetError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
result = engine.generate("the story of " * 30, max_tokens=120, temperature=0.9, top_p=0.9).run()
print(json.dumps({"peak": result.peak_rss_bytes, "budget": result.budget_bytes, "slots": engine.plan.slots,
                  "reads": result.store.reads, "tokens": result.completion_tokens, "torch": "torch" in sys.modules}))
"""


def _run(artifact: Path, budget: str) -> dict:
    done = subprocess.run([sys.executable, "-c", RUN, artifact, budget], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_process_keeps_to_its_budget(encoded):
    from moecompress.testing.native import Bits

    artifact, _ = encoded("olmoe", Bits(16, 16), intermediate_size=256, num_experts=32, hidden_size=128)
    smallest = re.search(r"works is (\d+ MiB)", _run(artifact, "20MiB")["refused"]).group(1).replace(" ", "")
    slots = []
    for budget in (smallest, f"{parse_size(smallest) + 5 * MIB}B", "400MiB"):
        outcome = _run(artifact, budget)
        assert outcome["peak"] <= outcome["budget"] == parse_size(budget)
        assert outcome["tokens"] > 60 and not outcome["torch"]
        slots.append(outcome["slots"])
    assert 4 <= slots[0] < slots[1] < 64 and slots[2] == 0
