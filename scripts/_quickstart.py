"""What scripts/quickstart does once the environment is there; every figure in its table is measured in this run."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moecompress.artifact.reader import read_manifest
from moecompress.artifact.sizes import expert_bits
from moecompress.cli.console import print_json
from moecompress.cli.screen import stdout, terminal_progress
from moecompress.cli.workflow import Outcome, compress_and_measure
from moecompress.core.errors import MoecompressError
from moecompress.core.units import format_size
from moecompress.core.values import plain
from moecompress.models.locate import embedded_model
from moecompress.report.html import write_report
from moecompress.report.table import Row, terminal_table

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "quickstart.yaml"
PROMPT = "def read_lines(path):\n"
TOKENS = 96
MARGIN_MIB = 8


def main() -> int:
    """Run everything; 0 when it all worked."""
    parser = argparse.ArgumentParser(description="Compress the embedded model, measure it, generate text.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "quickstart", help="folder of the results")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        result = quickstart(arguments.out)
    except MoecompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    result["seconds"] = round(time.monotonic() - started, 1)
    if arguments.json:
        print_json(result)
    else:
        show(result, arguments.out)
    return 0


def quickstart(out: Path) -> dict[str, Any]:
    """Compress, evaluate, generate in fresh processes, write the report; the figures as plain values."""
    artifact = out / "artifact"
    if artifact.exists():
        shutil.rmtree(artifact)
    with terminal_progress() as progress:
        outcome = compress_and_measure(RECIPE, [], None, artifact, out / "cache", progress)
        progress.start("generate", 3, "processes")
        floor = generate(artifact, "1B", check=False)
        progress.advance()
        generated = generate(artifact, f"{floor['smallest_mib'] + MARGIN_MIB}MiB")
        progress.advance()
        original = generate_original()
        progress.advance()
        progress.finish()
    rows = table_rows(outcome, generated, original)
    report(out, rows, artifact, generated)
    measured = outcome.evaluation["artifact"]
    return {
        "original": {"bytes": rows[0].bytes, "perplexity": rows[0].perplexity, "tokens_per_s": rows[0].tokens_per_s},
        "artifact": {
            "path": str(artifact),
            "bytes": outcome.bytes,
            "bits_per_weight": outcome.bits_per_weight,
            "perplexity": measured["perplexity"],
            "stderr": measured["stderr"],
            "kl_mean": measured["kl_mean"],
            "top1_agreement": measured["top1_agreement"],
        },
        "generate": {key: generated[key] for key in ("text", "tokens_per_s", "peak_rss_bytes", "budget_bytes")},
        "rows": [vars(row) for row in rows],
    }


def generate(artifact: Path, memory: str, check: bool = True) -> dict[str, Any]:
    """`moecompress generate` in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "moecompress.cli.main", "generate", str(artifact), "--prompt", PROMPT, "--json"]
    command += ["--max-tokens", str(TOKENS), "--memory", memory]
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise MoecompressError(f"generate failed: {done.stderr.strip()}")
    return dict(json.loads(done.stdout)) if done.returncode == 0 else smallest_budget(done.stderr)


def smallest_budget(message: str) -> dict[str, Any]:
    """The budget, in MiB, that the refusal of a too small one names."""
    found = re.search(r"smallest that works is (\d+) MiB", message)
    if found is None:
        raise MoecompressError(f"A budget of one byte was not refused as expected: {message.strip()}")
    return {"smallest_mib": int(found[1])}


def generate_original() -> dict[str, Any]:
    """The original under transformers, greedy, in a process of its own: tokens/s and peak memory."""
    code = f"""
import json, time, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from moecompress.core.memory import peak_rss_bytes
from moecompress.models.locate import embedded_model
folder = embedded_model()
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
ids = AutoTokenizer.from_pretrained(folder)({PROMPT!r}, return_tensors="pt").input_ids
model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
start = time.perf_counter()
out = model.generate(ids, max_new_tokens={TOKENS}, do_sample=False, pad_token_id=0)
seconds = time.perf_counter() - start
print(json.dumps({{"tokens_per_s": (out.shape[1] - ids.shape[1]) / seconds, "peak_rss_bytes": peak_rss_bytes()}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise MoecompressError(f"The original did not run under transformers: {done.stderr.strip()[-400:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table_rows(outcome: Outcome, generated: Mapping[str, Any], original: Mapping[str, Any]) -> list[Row]:
    """Original and artifact, as measured."""
    size = sum(path.stat().st_size for path in embedded_model().iterdir() if path.suffix != ".md")
    before, after = outcome.evaluation["original"], outcome.evaluation["artifact"]
    return [
        Row("original, bf16", size, 16.0, before["perplexity"], before["stderr"], **speed(original)),
        Row(
            "artifact",
            outcome.bytes,
            outcome.bits_per_weight,
            after["perplexity"],
            after["stderr"],
            after["kl_mean"],
            after["top1_agreement"],
            **speed(generated),
        ),
    ]


def speed(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The two measured fields of a row that come from generating."""
    return {"tokens_per_s": figures["tokens_per_s"], "peak_rss_bytes": figures["peak_rss_bytes"]}


def report(out: Path, rows: list[Row], artifact: Path, generated: Mapping[str, Any]) -> None:
    """`report.html` from the artifact's manifest and this run's rows."""
    manifest = read_manifest(artifact)
    bits = [[sum(expert_bits(e).values()) / 3 for e in layer.experts] for layer in manifest.experts]
    provenance = plain(manifest.provenance)
    notes = [note for unit in provenance.pop("passes") for note in unit["notes"]]
    sample = (PROMPT, str(generated["text"]))
    write_report(out / "report.html", "moecompress quickstart", rows, bits, notes, provenance, sample)


def show(result: Mapping[str, Any], out: Path) -> None:
    """The table, the text, and where things are."""
    stdout.print(terminal_table([Row(**row) for row in result["rows"]]))
    text = result["generate"]["text"]
    budget = format_size(result["generate"]["budget_bytes"])
    stdout.print(f"\ngenerated inside {budget}, without torch:\n")
    stdout.print(PROMPT + text, markup=False)
    stdout.print(
        f"\nartifact: {out / 'artifact'}   report: {out / 'report.html'}   {result['seconds']} s", markup=False
    )


if __name__ == "__main__":
    sys.exit(main())
