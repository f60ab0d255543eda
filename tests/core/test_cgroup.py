"""Limits of memory control groups, from the files of both versions as kernels and containers lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from moecompress.core.cgroup import MemoryGroup, memory_groups

V1 = "35 31 0:32 {inside} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V2 = "30 23 0:26 {inside} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
OTHER = "33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"


@pytest.fixture
def machine(tmp_path):
    """Writes /proc/self and group folders below a folder, and gives it."""

    def make(cgroup: str, mounts: list[str], groups: dict[str, dict[str, str]]) -> Path:
        files = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": "\n".join(mounts)}
        for folder, values in groups.items():
            files |= {f"sys/fs/cgroup/{folder}/{name}": text for name, text in values.items()}
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


def v1(limit: object, usage: int = 0, cache: int = 0) -> dict[str, str]:
    statistics = f"cache 7\ninactive_file 9\ntotal_inactive_file {cache // 2}\ntotal_active_file {cache - cache // 2}"
    return {
        "memory.limit_in_bytes": str(limit),
        "memory.usage_in_bytes": str(usage),
        "memory.stat": statistics,
    }


def v2(limit: object, high: object = "max", usage: int = 0, cache: int = 0) -> dict[str, str]:
    statistics = f"anon 5\nfile {cache}\ninactive_file {cache}\nactive_file 0\nslab_reclaimable 10"
    return {
        "memory.max": str(limit),
        "memory.high": str(high),
        "memory.current": str(usage),
        "memory.stat": statistics,
    }


def test_version_1_counts_what_others_use_and_not_the_page_cache(machine):
    root = machine("4:memory:/job\n1:cpu:/", [OTHER, V1.format(inside="/")], {"memory/job": v1(1000, 700, 301)})
    assert memory_groups(root) == [MemoryGroup(root / "sys/fs/cgroup/memory/job", 1000, 399)]
    assert memory_groups(root)[0].room == 601


def test_version_2_takes_the_tighter_of_max_and_high(machine):
    groups = {"a/b": v2("max", 500, 90, 30), "a": v2(800, "max", 410, 0), ".": {}}
    root = machine("0::/a/b", [V2.format(inside="/")], groups)
    folders = root / "sys/fs/cgroup/a/b", root / "sys/fs/cgroup/a"
    assert memory_groups(root) == [MemoryGroup(folders[0], 500, 50), MemoryGroup(folders[1], 800, 400)]


def test_a_container_sees_its_own_group_as_the_mounted_root(machine):
    mounts = [V1.format(inside="/docker/abc")]
    root = machine("4:memory:/docker/abc/sub", mounts, {"memory/sub": v1(300, 10), "memory": v1(400, 20)})
    assert [group.limit for group in memory_groups(root)] == [300, 400]


def test_a_path_that_is_not_mounted_falls_back_to_what_is(machine):
    root = machine("4:memory:/elsewhere/deep", [V1.format(inside="/docker/abc")], {"memory": v1(400, 20)})
    assert [group.limit for group in memory_groups(root)] == [400]


def test_without_limits_there_is_no_group(machine):
    groups = {"memory/job": v1(9223372036854771712, 5), "unified/job": v2("max")}
    mounts = [V1.format(inside="/"), V2.format(inside="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")]
    assert memory_groups(machine("4:memory:/job\n0::/job", mounts, groups)) == []


def test_a_full_group_has_no_room(machine):
    root = machine("4:memory:/job", [V1.format(inside="/")], {"memory/job": v1(1000, 1400)})
    assert memory_groups(root)[0].room == 0


def test_a_machine_without_control_groups_has_none(tmp_path):
    assert memory_groups(tmp_path) == []


def test_this_machine_can_be_read():
    assert all(group.limit > 0 and group.used >= 0 for group in memory_groups())
