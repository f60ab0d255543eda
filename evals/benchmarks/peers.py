#!/usr/bin/env python3
"""Our engine beside llama.cpp on the same weights, threads, token ids and memory cap; one command for every figure.

    evals/benchmarks/peers.py --json OUT                      # everything; about 40 minutes once the models are made
    evals/benchmarks/peers.py --json OUT --prepare            # only make the models (once, about half an hour)
    evals/benchmarks/peers.py --json OUT --only capped start  # measurements whose names begin so
    evals/benchmarks/peers.py --json OUT --quick --work DIR   # small shapes, a minute, for trying it out

Finished measurements are kept in OUT and not repeated. Runs of the two engines alternate (A B A B) and figures are
medians. Capped runs need root: they make a memory control group, set the disk's read-ahead and drop the page cache,
all put back afterwards. `--reference DIR --text FILE…` adds the reference model. `--without-peer` measures our half.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from comparison import capped, kernel_share, machine, plan, reference, resident, start
from comparison.limits import LimitsError
from comparison.plan import FULL, QUICK, Plan
from comparison.protocol import WorkerError
from comparison.results import Results
from comparison.workspace import PeerMissing, Workspace

Measurement = Callable[[], Mapping[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """0 when every wanted measurement is in the file."""
    options = parse(arguments)
    sizes = QUICK if options.quick else FULL
    folder = options.work / "quick" if options.quick else options.work
    peer = None if options.without_peer else options.peer_python
    work = Workspace(folder.resolve(), peer, sys.executable, options.threads, say)
    try:
        results = Results(options.json, {"plan": asdict(sizes), "threads": options.threads, "peer": peer is not None})
        results.describe(machine=machine.describe(), peer=described_peer(work, options), command=command_line(options))
        prepare(work, sizes, options)
        for name, measurement in measurements(work, sizes, options).items():
            begun = time.monotonic()
            if chosen(name, options) and results.measure(name, measurement):
                say(f"{name}: {time.monotonic() - begun:.0f} s")
    except (LimitsError, PeerMissing, WorkerError, ValueError) as error:
        say(str(error))
        return 1
    return 0


def measurements(work: Workspace, sizes: Plan, options: argparse.Namespace) -> dict[str, Measurement]:
    """Name → what measures it, in order."""
    large, small = sizes.large, sizes.small
    found: dict[str, Measurement] = {
        "start": partial(start.measure, work),
        "kernels": partial(kernel_share.measure, work),
    }
    for shape, pair in ((large, plan.Q4_K_M), (small, plan.IQ3_XXS), (small, plan.IQ2_XS), (small, plan.Q8_0)):
        found[f"resident/{pair.kind}"] = partial(resident.decode, work, sizes, shape, pair)
    found["resident-usual-bits"] = partial(resident.usual, work, sizes, large, plan.USUAL)
    found[f"prefill/{large}"] = partial(resident.prefill, work, sizes, large, sizes.prefill_kinds[:1], plan.Q4_K_M.bits)
    found[f"prefill/{small}/all types"] = partial(
        resident.prefill, work, sizes, small, sizes.prefill_kinds, plan.Q4_K_M.bits
    )
    for prefix, kibibytes, repeats in (("capped", 128, sizes.capped_repeats), ("capped-8MiB", 8192, 1)):
        for share in sizes.caps:
            limits = capped.Limits(share, kibibytes, repeats)
            found[f"{prefix}/{share}"] = partial(capped.decode, work, sizes, large, plan.Q4_K_M, limits)
    found["capped-vs-resident"] = partial(capped.against_resident, work, sizes, large, plan.Q4_K_M.bits)
    if options.reference:
        found["reference-decode"] = partial(reference.decode, work, sizes, options.reference, options.text)
        found["reference-quality"] = partial(reference.quality, work, sizes, options.reference, options.text)
    return found


def prepare(work: Workspace, sizes: Plan, options: argparse.Namespace) -> None:
    """Make every model that is missing."""
    large, small = sizes.large, sizes.small
    for shape, bits in [(large, plan.Q4_K_M.bits), (large, plan.USUAL)]:
        work.artifact(shape, bits)
    for pair in (plan.Q4_K_M, plan.IQ3_XXS, plan.IQ2_XS, plan.Q8_0):
        work.artifact(small, pair.bits)
    if work.peer is not None:
        work.ggufs(large, ["Q4_K_M"])
        work.ggufs(small, [*sizes.prefill_kinds, "IQ3_XXS", "IQ2_XS"])
    for shape in {large, small}:
        work.routing(shape)
    start.tiny_artifact(work)
    if options.reference:
        reference.files(work, options.reference)


def chosen(name: str, options: argparse.Namespace) -> bool:
    """Whether a measurement is wanted."""
    return not options.prepare and (not options.only or name.startswith(tuple(options.only)))


def described_peer(work: Workspace, options: argparse.Namespace) -> dict[str, Any] | None:
    """Version and build of the peer; how it was compiled is what the command line says."""
    hello = work.peer_hello
    return None if hello is None else {**hello, "compiled": options.peer_build}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="results; measurements in it are not repeated")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="where models are made, about 12 GB")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="a Python with llama-cpp-python; default: this one"
    )
    parser.add_argument("--peer-build", default="", help="how the peer was compiled, for the record")
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small shapes and few repeats")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="measurements whose names begin so")
    parser.add_argument("--prepare", action="store_true", help="only make the models")
    parser.add_argument("--reference", type=Path, help="folder of the reference model")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="held-out text for it; default: builtin")
    return parser.parse_args(arguments)


def command_line(options: argparse.Namespace) -> str:
    """The command without the places of this machine."""
    flags = [f"--threads {options.threads}"] + ["--quick"] * options.quick + ["--without-peer"] * options.without_peer
    model = ["--reference MODEL", *(f"--text {' '.join(path.name for path in options.text)}" for _ in options.text[:1])]
    return " ".join(["evals/benchmarks/peers.py --json OUT", *flags, *(model if options.reference else [])])


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
