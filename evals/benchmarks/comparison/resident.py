"""Everything in memory: decoding at equal bytes per token, and reading a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comparison.paired import decode_turns, paired_ratio, prefill_turns, rates
from comparison.plan import Pair, Plan
from comparison.protocol import Worker
from comparison.workspace import Workspace, sizes
from synthetic.artifact import Bits
from synthetic.shapes import PRESETS

REPACK = {"repack": True, "no repack": False}


def decode(work: Workspace, plan: Plan, shape: str, pair: Pair) -> dict[str, Any]:
    """Decoding speed, ours against the better of the peer's two ways to hold its weights."""
    ids, ours = work.tokens(shape, plan.text), work.artifact(shape, pair.bits)
    record: dict[str, Any] = {"shape": shape, "bits": pair.bits.name, "ours": sizes(ours, PRESETS[shape])}
    if work.peer is None:
        with own(work, plan, ours) as worker:
            turns = decode_turns({"ours": worker}, ids, plan.repeats, plan.decode_tokens)
        return {**record, "routing": work.routing(shape), **rates(turns)}
    theirs = work.ggufs(shape, [pair.kind])[pair.kind]
    record |= {"kind": pair.kind, "peer": sizes(theirs, PRESETS[shape]), "runs": {}}
    record["active_bytes_ratio"] = round(record["ours"]["active_bytes"] / record["peer"]["active_bytes"], 3)
    for name, repack in REPACK.items():
        with own(work, plan, ours) as mine, peer(work, plan, theirs, repack=repack) as other:
            turns = decode_turns({"ours": mine, "peer": other}, ids, plan.repeats, plan.decode_tokens)
        record["runs"][name] = {**rates(turns), "ratio": paired_ratio(turns["ours"], turns["peer"])}
    return {**record, "ratio": min(run["ratio"] for run in record["runs"].values()), "routing": work.routing(shape)}


def usual(work: Workspace, plan: Plan, shape: str, bits: Bits) -> dict[str, Any]:
    """Decoding speed with other bits of ours alone, for the table."""
    path = work.artifact(shape, bits)
    with own(work, plan, path) as worker:
        turns = decode_turns({"ours": worker}, work.tokens(shape, plan.text), plan.repeats, plan.decode_tokens)
    return {"shape": shape, "bits": bits.name, "ours": sizes(path, PRESETS[shape]), **rates(turns)}


def prefill(work: Workspace, plan: Plan, shape: str, kinds: tuple[str, ...], bits: Bits) -> dict[str, Any]:
    """Prompt speed, ours in 4 bits against each of the peer's types and ways; the ratio is to its best."""
    ids, path = work.tokens(shape, plan.text), work.artifact(shape, bits)
    record: dict[str, Any] = {"shape": shape, "bits": bits.name, "tokens": plan.prefill_tokens, "runs": {}}
    repeats = max(2, plan.repeats - 2)
    if work.peer is None:
        with own(work, plan, path) as worker:
            return {**record, **rates(prefill_turns({"ours": worker}, ids, repeats, plan.prefill_tokens))}
    for kind, file in work.ggufs(shape, kinds).items():
        for name, repack in REPACK.items():
            with own(work, plan, path) as mine, peer(work, plan, file, repack=repack) as other:
                turns = prefill_turns({"ours": mine, "peer": other}, ids, repeats, plan.prefill_tokens)
            ratio = paired_ratio(turns["ours"], turns["peer"])
            record["runs"][f"{kind}, {name}"] = {**rates(turns), "ratio": ratio}
    return {**record, "ratio": min(run["ratio"] for run in record["runs"].values())}


@contextmanager
def own(work: Workspace, plan: Plan, path: Path, group: Path | None = None, **options: Any) -> Iterator[Worker]:
    """Our engine with an artifact open, resident unless `memory` says otherwise; in a control group if one is named."""
    with work.own_worker(group) as worker:
        worker.ask("open", path=str(path), threads=work.threads, context=plan.context, **options)
        yield worker


@contextmanager
def peer(work: Workspace, plan: Plan, path: Path, repack: bool, group: Path | None = None) -> Iterator[Worker]:
    """llama.cpp with a file open, mapped; in a control group if one is named."""
    with work.peer_worker(group) as worker:
        worker.ask("open", path=str(path), threads=work.threads, context=plan.context, mmap=True, repack=repack)
        yield worker
