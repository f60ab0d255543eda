import hashlib

import pytest

from moecompress.core.hashing import canonical_json, fingerprint, sha256_file


def test_file_hash_is_sha256_and_counts_every_byte(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1_000_000)
    seen = []
    assert sha256_file(path, seen.append) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert sum(seen) == 3_000_000


def test_fingerprint_ignores_key_order_and_sees_values():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_nan_has_no_canonical_form():
    with pytest.raises(ValueError):
        canonical_json({"x": float("nan")})
