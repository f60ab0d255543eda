from pathlib import Path

import pytest

from moecompress.core import memory
from moecompress.core.cgroup import MemoryGroup
from moecompress.core.memory import anonymous_bytes, available_bytes, obtainable_bytes, peak_rss_bytes, rss_bytes


def test_resident_memory_grows_with_what_is_touched():
    before, anonymous = rss_bytes(), anonymous_bytes()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    assert rss_bytes() - before > 48 << 20 and anonymous_bytes() - anonymous > 48 << 20
    assert peak_rss_bytes() >= rss_bytes() - (1 << 20)
    assert anonymous_bytes() < rss_bytes()


def test_this_machine_has_memory():
    assert available_bytes() > 0 and obtainable_bytes() > 0


@pytest.mark.parametrize(("rooms", "expected"), [([], 110), ([500], 110), ([40, 60], 50), ([60, 0], 10)])
def test_the_tightest_limit_decides_what_can_be_had(monkeypatch, rooms, expected):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    monkeypatch.setattr(memory, "anonymous_bytes", lambda: 10)
    monkeypatch.setattr(memory, "memory_groups", lambda: [MemoryGroup(Path("x"), 1000, 1000 - room) for room in rooms])
    assert obtainable_bytes() == expected
