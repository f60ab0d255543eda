"""The page of measured speeds: every figure of the results is in it, and what was not measured is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import moecompress

sys.path.insert(0, str(Path(moecompress.__file__).parents[1] / "scripts"))

from speed_page import speed_page

MACHINE = {
    "processor": "Example 9000", "cores": 2, "memory_bytes": 24 << 30, "instruction_sets": ["avx2", "fma"],
    "kernel": "6.1", "commit": "abc1234",
}  # fmt: skip
RUN = {"ours": {"tps": 31.4}, "peer": {"tps": 17.2}, "ratio": 1.83}
RESIDENT = {
    "shape": "olmoe-7b", "kind": "Q4_K_M", "bits": "e4a4h8g64", "ours": {"active_bytes": 713e6},
    "peer": {"active_bytes": 732e6}, "runs": {"repack": RUN, "no repack": {**RUN, "ratio": 1.9}}, "ratio": 1.83,
    "routing": {"experts": 64, "effective_experts": 51.2, "next_token_reuse": 0.44, "next_layer_recall": 0.77,
                "hit_rates": {"lru": [0.48, 0.7], "belady": [0.71, 0.87]}},
}  # fmt: skip
CAPPED = {
    "shape": "olmoe-7b", "share": 0.5, "read_ahead_kib": 128, "ours_tps": 8.5, "peer_tps": 1.25, "ratio": 6.8,
    "ours_disk_bytes_per_token": 151e6, "peer_disk_bytes_per_token": 503e6, "disk_bytes_ratio": 0.3, "hit_rate": 0.667,
    "rss_over_budget": 0, "oom_kills": 0, "peer_oom_kills": 0, "runs": {},
}  # fmt: skip
PEERS = {
    "machine": MACHINE,
    "peer": {"version": "0.3.36", "build": "AVX2 = 1", "compiled": "-DGGML_NATIVE=ON"},
    "command": "evals/benchmarks/peers.py --json OUT --threads 2",
    "measurements": {
        "resident/Q4_K_M": RESIDENT,
        "prefill/olmoe-7b": {"shape": "olmoe-7b", "tokens": 512, "runs": {"Q4_0, repack": RUN}},
        "capped/0.5": CAPPED,
        "capped-8MiB/0.5": {**CAPPED, "read_ahead_kib": 8192, "peer_tps": None, "ratio": None},
        "capped-vs-resident": {"share": 0.85, "hit_rate": 0.912, "ratio": 0.87},
        "kernels": {"share": {"8": 0.91, "2": 0.74}},
        "start": {"import_to_first_token_s": 0.287, "rss_before_weights_bytes": 30 << 20},
    },
}
STEP = {"expert_bits": 4, "slots": 8, "tps": 9.0, "disk_bytes_per_token": 113e6, "hit_rate": 0.0, "factor": 3.1}
ABLATION = {"shape": "olmoe-1.8b", "chain": 5.2, "steps": [{"name": "quantized", **STEP}]}


def row(page: str, start: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| {start}"))


def test_every_kind_of_figure_is_in_the_page():
    page = speed_page(PEERS, ABLATION)
    assert "Example 9000, 2 cores, 24 GiB" in page and "llama-cpp-python 0.3.36" in page
    assert "| 713 / 732 | 31.4 / 31.4 | 17.2 | 17.2 | 1.83× |" in row(page, "olmoe-7b | Q4_K_M")
    assert "| Q4_0, repack | 512 | 31.4 | 17.2 | 1.83× |" in page
    assert "| 128 KiB | 8.5 | 1.25 | 6.80× | 151 / 503 | 0.3 | 66.7 % | 0 | 0 / 0 |" in page
    assert "| 8 MiB | 8.5 | – | – |" in page
    assert "91.2 % of experts were found there, and decoding ran at 87.0 % of the speed" in page
    assert "91.0 %" in row(page, "8-bit expert kernels") and "0.287 s" in page and "30.0 MiB" in page
    assert "| quantized | 4 | 8 | 9 | 113 | 0.0 % | 3.10× |" in page
    assert "51.2 of 64 | 44.0 % | 77.0 % | 48.0 % / 70.0 % | 71.0 % / 87.0 % |" in page


def test_what_was_not_measured_is_left_out():
    page = speed_page({**PEERS, "peer": None, "measurements": {}}, None)
    assert "##" not in page.replace("# Measured speed", "") and "Peer:" not in page
