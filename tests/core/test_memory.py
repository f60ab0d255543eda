from moecompress.core.memory import available_bytes, cgroup_limit_bytes, peak_rss_bytes, rss_bytes


def test_resident_memory_grows_with_what_is_touched():
    before = rss_bytes()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    assert rss_bytes() - before > 48 << 20
    assert peak_rss_bytes() >= rss_bytes() - (1 << 20)


def test_limits_are_positive():
    limit = cgroup_limit_bytes()
    assert available_bytes() > 0
    assert limit is None or limit > 0
