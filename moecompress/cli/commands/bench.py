"""`moecompress bench ARTIFACT`: how fast an artifact runs on real text, in how much memory, reading how much."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moecompress.cli.console import note, print_json
from moecompress.cli.flags import EngineFlags, with_flags

if TYPE_CHECKING:
    from moecompress.runtime.engine import Engine
    from moecompress.runtime.loading import Prepared

_PROMPT = 512


@with_flags
def COMMAND(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    engine: EngineFlags,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a prompt; default: 512, or what the context leaves.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens after it, one by one.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs; one more goes before, to warm up.")] = 5,
    text: Annotated[Path | None, typer.Option(help="Text file to measure on; default: builtin held-out text.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure ARTIFACT: prefill and decode speed, weights touched, hit rate, bytes read, memory. Medians of repeats."""
    from moecompress.cli.passages import encode_passages, read_passages
    from moecompress.runtime.engine import Engine
    from moecompress.runtime.loading import load

    passages = read_passages(text, repeats + 1, (prompt_tokens or _PROMPT) + tokens)
    prepared = engine.prepare(artifact)
    _show_plan(prepared)
    prompt = prompt_tokens or min(_PROMPT, max(1, prepared.plan.context - tokens))
    _check_context(prepared.plan.context, prompt, tokens)
    with Engine(load(prepared)) as opened:
        rows = encode_passages(opened.tokenizer.encode, passages, prompt + tokens)
        result = _measure(opened, prepared, rows, prompt)
    report = {
        "artifact": str(artifact),
        "text": "builtin" if text is None else str(text),
        "prompt_tokens": prompt,
        "tokens": tokens,
        "repeats": repeats,
        **result,
    }
    if json:
        print_json(report)
    else:
        from moecompress.cli.bench_table import show

        show(report)


def _show_plan(prepared: Prepared) -> None:
    from moecompress.core.units import format_size

    plan = prepared.plan
    parts = ", ".join(f"{name.replace('_', ' ')} {format_size(size)}" for name, size in plan.parts().items() if size)
    kept = "every expert stays in memory" if plan.resident else f"{plan.slots} experts stay in memory"
    note(f"memory: {format_size(plan.planned)} of a budget of {format_size(plan.budget)}; {kept}")
    note(f"        {parts}")


def _check_context(context: int, prompt_tokens: int, tokens: int) -> None:
    from moecompress.core.errors import UsageError

    if prompt_tokens + tokens > context:
        raise UsageError(
            f"{prompt_tokens} tokens of prompt and {tokens} after it do not fit the context of {context}. "
            "Measure fewer (--prompt-tokens, --tokens), or raise --context."
        )


def _measure(engine: Engine, prepared: Prepared, rows: list[list[int]], prompt: int) -> dict[str, Any]:
    from moecompress.core import memory
    from moecompress.runtime import benchmark
    from moecompress.runtime.footprint import Footprint
    from moecompress.runtime.machine import read_speed

    benchmark.run(engine, rows[0], prompt)
    runs = [benchmark.run(engine, row, prompt) for row in rows[1:]]
    peak = memory.peak_rss_bytes()
    decode = benchmark.Spread.of([run.decode.tokens_per_s for run in runs])
    footprint = Footprint.of(prepared.described.tables)
    speed = read_speed(prepared.options.threads)
    return {
        "artifact_hash": engine.manifest.artifact_hash,
        "isa": engine.isa,
        "lossy": list(engine.lossy),
        "threads": prepared.options.threads,
        "expert_cache": "warm",
        "prefill_tokens_per_s": vars(benchmark.Spread.of([run.prefill.tokens_per_s for run in runs])),
        "decode_tokens_per_s": vars(decode),
        "seconds_to_first_token": vars(benchmark.Spread.of([run.prefill.seconds for run in runs])),
        "weights": {
            "bytes_per_token": footprint.token_bytes,
            "trunk_bytes": footprint.trunk_bytes,
            "expert_bytes": footprint.expert_bytes,
            "read_speed_bytes_per_s": speed,
            "share_of_read_speed": decode.median * footprint.token_bytes / speed,
        },
        "experts": benchmark.lookups(runs),
        "disk": vars(benchmark.disk(runs)),
        "memory": {
            "peak_rss_bytes": peak,
            "budget_bytes": engine.plan.budget,
            "held": peak <= engine.plan.budget,
            "plan": engine.plan.as_dict(),
        },
    }
