"""Less memory than the model: both engines in a control group that charges the page cache, starting from an empty one.

The cap is a share of the peer's file. Our engine gets it as `--memory`; the group of either holds 5 % more. The peer
maps its file, the fastest of its ways that survive.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comparison.limits import drop_caches, memory_group, read_ahead
from comparison.paired import PROMPT, decode_turns, paired_ratio, portion, rates
from comparison.plan import Pair, Plan
from comparison.protocol import Worker, WorkerError
from comparison.resident import own, peer
from comparison.workspace import Workspace
from synthetic.artifact import Bits

GROUP_SHARE = 1.05
WANTED_HITS = 0.9
SHARES = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True)
class Limits:
    """`share` of the peer's file as memory, `read_ahead_kib` of the disk, and how often both engines run."""

    share: float
    read_ahead_kib: int
    repeats: int


def decode(work: Workspace, plan: Plan, shape: str, pair: Pair, limits: Limits) -> dict[str, Any]:
    """One cap at one read-ahead: our run, the peer's, and so on; speed and bytes read from the disk per token."""
    ours = work.artifact(shape, pair.bits)
    theirs = work.ggufs(shape, [pair.kind])[pair.kind] if work.peer else None
    whole = theirs.stat().st_size if theirs else sum(file.stat().st_size for file in ours.iterdir())
    cap, ids = int(limits.share * whole), work.tokens(shape, plan.text)
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for repeat in range(limits.repeats):
        part = portion(ids, repeat, PROMPT + plan.capped_warm + plan.capped_tokens)
        with read_ahead(work.folder, limits.read_ahead_kib):
            runs["ours"].append(_run(plan, part, cap, partial(own, work, plan, ours, memory=cap)))
            if theirs is not None:
                runs["peer"].append(_run(plan, part, cap, partial(peer, work, plan, theirs, repack=False)))
    record = {"shape": shape, "bits": pair.bits.name, "cap_bytes": cap, **asdict(limits)}
    return {**record, "runs": runs, **summary(runs)}


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the repeats; the ratios are of the two runs of one repeat. A run that was killed has no speed."""
    ours, theirs = runs["ours"], runs["peer"]
    result: dict[str, Any] = {
        "ours_tps": _median(ours, "tps"),
        "ours_disk_bytes_per_token": _median(ours, "disk_bytes_per_token"),
        "hit_rate": _median(ours, "hit_rate"),
        "rss_over_budget": max((_over(run) for run in ours if "peak_rss_bytes" in run), default=None),
        "oom_kills": sum(run["oom_kills"] for run in ours),
    }
    if not theirs:
        return result
    pairs = [(our, their) for our, their in zip(ours, theirs, strict=True) if our["tps"] and their["tps"]]
    result |= {
        "peer_tps": _median(theirs, "tps"),
        "peer_disk_bytes_per_token": _median(theirs, "disk_bytes_per_token"),
        "peer_oom_kills": sum(run["oom_kills"] for run in theirs),
        "ratio": _of_pairs([our["tps"] / their["tps"] for our, their in pairs]),
        "disk_bytes_ratio": _of_pairs(
            [our["disk_bytes_per_token"] / max(their["disk_bytes_per_token"], 1) for our, their in pairs]
        ),
    }
    return result


def against_resident(work: Workspace, plan: Plan, shape: str, bits: Bits) -> dict[str, Any]:
    """Our own speed under the smallest budget tried that finds 90 % of experts in memory, against all resident."""
    path, ids = work.artifact(shape, bits), work.tokens(shape, plan.text)
    whole, found = sum(file.stat().st_size for file in path.iterdir()), {}
    for share in SHARES:
        found[share] = _usual_hit_rate(work, plan, path, ids, int(share * whole))
        if found[share] >= WANTED_HITS:
            break
    record = {"shape": shape, "bits": bits.name, "share": share, "hit_rate": found[share], "hit_rates": found}
    with own(work, plan, path) as resident, own(work, plan, path, memory=int(share * whole)) as capped:
        turns = decode_turns({"resident": resident, "capped": capped}, ids, plan.repeats, plan.decode_tokens)
    return {**record, "ratio": paired_ratio(turns["capped"], turns["resident"]), **rates(turns)}


def _usual_hit_rate(work: Workspace, plan: Plan, path: Path, ids: list[int], memory: int) -> float:
    """Share of experts found in memory while decoding, once the cache is warm."""
    with own(work, plan, path, memory=memory) as worker:
        for turn in range(2):
            part = portion(ids, turn, PROMPT + plan.decode_tokens)
            worker.ask("prefill", ids=part[:PROMPT])
            store = worker.ask("decode", ids=part[PROMPT:])["store"]
    return round(float(store["decode_hits"]) / max(1, store["decode_hits"] + store["decode_misses"]), 4)


def _run(plan: Plan, ids: list[int], cap: int, opened: Callable[..., AbstractContextManager[Worker]]) -> dict[str, Any]:
    """One engine from an empty page cache: prompt, some tokens to warm up, then the measured ones."""
    drop_caches()
    with memory_group(int(GROUP_SHARE * cap)) as group:
        try:
            with opened(group=group.path) as worker:
                result = _decoded(worker, plan, ids)
        except WorkerError as error:
            if not group.oom_kills:
                raise
            result = {"tps": None, "disk_bytes_per_token": None, "error": str(error)}
        return {**result, "budget_bytes": cap, "oom_kills": group.oom_kills}


def _decoded(worker: Worker, plan: Plan, ids: list[int]) -> dict[str, Any]:
    worker.ask("prefill", ids=ids[:PROMPT])
    start = PROMPT + plan.capped_warm
    before = worker.ask("decode", ids=ids[PROMPT:start], limit=plan.capped_seconds)
    after = worker.ask("decode", ids=ids[start:], limit=plan.capped_seconds)
    count, used = len(after["seconds"]), after["used"]
    result = {
        "tps": round(count / sum(after["seconds"]), 3),
        "tokens": count,
        "disk_bytes_per_token": round((used["disk_bytes"] - before["used"]["disk_bytes"]) / count),
        "peak_rss_bytes": used["peak_rss_bytes"],
        "major_faults_per_token": round((used["major_faults"] - before["used"]["major_faults"]) / count, 1),
    }
    if "store" in after:
        result["hit_rate"] = _hit_rate(before["store"], after["store"])
    return result


def _hit_rate(before: dict[str, Any], after: dict[str, Any]) -> float:
    hits = after["decode_hits"] - before["decode_hits"]
    return round(hits / max(1, hits + after["decode_misses"] - before["decode_misses"]), 4)


def _over(run: dict[str, Any]) -> int:
    """Bytes of resident memory above the budget at the worst moment, 0 when there were none."""
    return max(0, int(run["peak_rss_bytes"]) - int(run["budget_bytes"]))


def _median(runs: list[dict[str, Any]], key: str) -> float | None:
    return _of_pairs([run[key] for run in runs if run.get(key) is not None])


def _of_pairs(values: list[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None
