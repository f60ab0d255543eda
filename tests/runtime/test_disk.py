"""Measured read rates: of which sizes, how many bytes, and that nothing is written."""

from __future__ import annotations

import os

import pytest

from moecompress.runtime import disk
from moecompress.runtime.disk import measure_disk


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(disk, "_SECONDS", 0.02)


def test_the_largest_file_is_read_in_every_size_that_fits(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x" * 8192)
    large.write_bytes(os.urandom(1 << 20))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
    report = measure_disk([small, large])
    assert report.file == str(large)
    assert {(rate.piece_bytes, rate.lanes) for rate in report.rates} == {
        (piece, lanes) for piece in (256 << 10, 1 << 20) for lanes in (1, 2, 4)
    }
    assert all(rate.bytes_per_s > 0 for rate in report.rates)
    assert report.best == max(rate.bytes_per_s for rate in report.rates)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir()) == before


def test_files_shorter_than_an_expert_are_not_measured(tmp_path):
    (tmp_path / "short").write_bytes(b"x" * 5000)
    report = measure_disk([tmp_path / "short"])
    assert report.rates == () and report.best is None


def test_without_direct_reads_it_says_so_and_measures_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "O_DIRECT", -1)  # no open succeeds with it
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    report = measure_disk([tmp_path / "file"])
    assert not report.direct and len(report.rates) == 3


def test_no_more_bytes_are_read_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_SECONDS", 30.0)
    monkeypatch.setattr(disk, "_MOST_BYTES", 1 << 20)
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    assert len(measure_disk([tmp_path / "file"]).rates) == 6
