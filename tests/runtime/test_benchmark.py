"""What a benchmark counts: every token once, and bytes that the kernel counts too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moecompress.runtime import benchmark
from moecompress.runtime.benchmark import Spread
from moecompress.runtime.engine import Engine

IDS = [(7 * index) % 299 for index in range(60)]


def test_a_run_forces_the_text_and_starts_from_an_empty_cache(engine):
    first, again = (benchmark.run(engine, IDS, 40) for _ in range(2))
    for run in (first, again):
        assert run.prefill.tokens == 40 and run.decode.tokens == 20
        assert run.prefill.seconds > 0 and run.decode.tokens_per_s == 20 / run.decode.seconds
        assert run.store.decode_lookups == 20 * 2 * 2  # layers and top-k
        assert run.prefill.bytes_read + run.decode.bytes_read == run.store.bytes_read
    assert again.store.prefill_hits + again.store.prefill_speculative_hits + again.store.prefill_misses > 0


def test_shares_of_lookups_add_up(engine):
    counts = benchmark.lookups([benchmark.run(engine, IDS, 40) for _ in range(2)])
    assert counts["decode_misses"] > 0
    shares = [counts[name] for name in ("hit_rate", "speculative_hit_rate", "miss_rate")]
    assert sum(shares) == pytest.approx(1)


def test_a_resident_model_reads_nothing_more(artifact):
    with Engine.open(artifact, threads=1) as engine:
        benchmark.run(engine, IDS, 40)
        disk = benchmark.disk([benchmark.run(engine, IDS, 40)])
    assert disk.bytes_per_token == 0 and disk.agree


def test_counts_that_differ_do_not_agree(engine):
    run = benchmark.run(engine, IDS, 40)
    read = 10 << 20
    for process, agree in ((read, True), (int(read * 0.96), True), (int(read * 0.9), False), (0, False)):
        decode = replace(run.decode, bytes_read=read, process_bytes_read=process)
        assert benchmark.disk([replace(run, decode=decode)]).agree is agree


def test_a_spread_is_the_median_between_the_ends():
    assert Spread.of([3.0, 9.0, 4.0]) == Spread(4.0, 3.0, 9.0)
