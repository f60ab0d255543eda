#!/usr/bin/env python3
"""Build a synthetic OLMoE as our artifact or as a GGUF file, or measure its routing. Same seed, same bytes.

    evals/benchmarks/synthetic_model.py artifact --shape olmoe-7b --expert-bits 4 --attention-bits 8 --out DIR
    evals/benchmarks/synthetic_model.py gguf --shape olmoe-1.8b --type BF16 --out FILE  # IQ3_XXS, IQ2_XS: random blocks
    evals/benchmarks/synthetic_model.py routing --shape olmoe-1.8b --tokens 299

Sizes of the shape can be given one by one (`--layers 4 --experts 32`). Needs the extra `reference` for GGUF files.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path

from synthetic.artifact import Bits, build_artifact
from synthetic.shapes import PRESETS, Shape
from synthetic.tokens import stream
from synthetic.weights import Weights

SIZES = [field.name for field in fields(Shape) if field.name != "name"]


def main(arguments: list[str] | None = None) -> int:
    """Build what the command line names."""
    options = parse(arguments)
    given = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    weights = Weights(replace(PRESETS[options.shape], **given), options.seed)
    options.run(weights, options)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--shape", choices=sorted(PRESETS), default="olmoe-1.8b")
    common.add_argument("--seed", type=int, default=0)
    for name in SIZES:
        common.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    artifact = commands.add_parser("artifact", parents=[common], help="our artifact")
    artifact.add_argument("--expert-bits", type=int, default=4, help="1 to 8, or 16 for bfloat16")
    artifact.add_argument("--attention-bits", type=int, default=8)
    artifact.add_argument("--head-bits", type=int, default=8, help="of head and embedding")
    artifact.add_argument("--group-size", type=int, default=64)
    artifact.add_argument("--out", type=Path, required=True)
    artifact.set_defaults(run=write_artifact)
    gguf = commands.add_parser("gguf", parents=[common], help="a file for llama.cpp")
    gguf.add_argument("--type", default="BF16", help="BF16, or a mix of random blocks: IQ3_XXS, IQ2_XS")
    gguf.add_argument("--out", type=Path, required=True)
    gguf.set_defaults(run=write_gguf)
    routing = commands.add_parser("routing", parents=[common], help="effective experts and locality, as JSON")
    routing.add_argument("--tokens", type=int, default=299)
    routing.set_defaults(run=measure_routing)
    return parser.parse_args(arguments)


def write_artifact(weights: Weights, options: argparse.Namespace) -> None:
    """Build the artifact."""
    bits = Bits(options.expert_bits, options.attention_bits, options.head_bits, options.group_size)
    build_artifact(weights, bits, options.out, lambda line: print(line, file=sys.stderr))


def write_gguf(weights: Weights, options: argparse.Namespace) -> None:
    """Build the GGUF file."""
    from synthetic.gguf_model import build_bf16, build_random

    if options.type == "BF16":
        build_bf16(weights, options.out)
    else:
        build_random(weights, options.type, options.out)


def measure_routing(weights: Weights, options: argparse.Namespace) -> None:
    """Print the routing of the benchmark's token stream."""
    from synthetic.routing import measure

    print(json.dumps(measure(weights, stream(weights.shape, options.tokens)), indent=1))


if __name__ == "__main__":
    sys.exit(main())
