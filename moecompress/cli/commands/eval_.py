"""`moecompress eval X`: perplexity of a checkpoint or artifact, and its distance from an original."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from moecompress.cli.console import print_json
from moecompress.cli.screen import stdout, terminal_progress


@dataclass(frozen=True)
class _Options:
    suite: str | None
    text: tuple[str, ...]
    window: int | None
    windows: int | None


def COMMAND(
    model: Annotated[str, typer.Argument(help="An artifact, a checkpoint's folder, or `builtin`.")],
    suite: Annotated[str | None, typer.Option(help="quick, full, or a suite file.")] = None,
    text: Annotated[list[Path] | None, typer.Option(help="Local text to measure on; may be repeated.")] = None,
    against: Annotated[str | None, typer.Option(help="The original, for KL divergence and top-1 agreement.")] = None,
    engine: Annotated[Literal["auto", "native", "transformers"], typer.Option(help="What runs an artifact.")] = "auto",
    window: Annotated[int | None, typer.Option(min=2, help="Tokens per window.")] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="How many windows.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where the original's logits are kept.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure a model on text: perplexity ± standard error; with --against also KL divergence and agreement."""
    from moecompress.cli.workflow import default_cache
    from moecompress.evaluate.compare import evaluate, reference_of
    from moecompress.evaluate.suites import windows_of
    from moecompress.evaluate.targets import open_target
    from moecompress.models.locate import locate_model

    folder = locate_model(model)
    chosen = windows_of(folder, _Options(suite, tuple(str(path) for path in text or ()), window, windows))
    with terminal_progress() as progress:
        reference = None
        if against is not None:
            reference = reference_of(locate_model(against), chosen, cache or default_cache(), progress)
        target = open_target(folder, engine, max(len(ids) for ids in chosen))
        result = evaluate(target, chosen, reference, progress)
    if json:
        print_json({key: value for key, value in asdict(result).items() if value is not None})
        return
    stdout.print(f"perplexity      {result.perplexity:.4f} ± {result.stderr:.4f}  ({result.tokens} tokens)")
    if result.kl_mean is not None and result.kl_p99 is not None and result.top1_agreement is not None:
        stdout.print(f"KL divergence   mean {result.kl_mean:.5f}  p99 {result.kl_p99:.5f}  max {result.kl_max:.5f}")
        stdout.print(f"top-1 agreement {result.top1_agreement:.2%}")
