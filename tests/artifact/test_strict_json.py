"""JSON with one meaning only."""

import pytest

from moecompress.artifact.strict_json import MAX_DEPTH, loads
from moecompress.core.errors import ArtifactError


def test_plain_values_pass():
    assert loads('{"a": [1, 2.5, null, true, "é"]}'.encode(), "x") == {"a": [1, 2.5, None, True, "é"]}
    assert loads(rb'["\ud83d\ude42", "\\ud800"]', "x") == ["🙂", "\\ud800"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "'c' appears twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "1e999 is too large a number"),
        (b'{"a": 1} x', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (rb'{"a": "\uD800"}', "surrogate pair"),
        (rb'{"\udc00": 1}', "surrogate pair"),
        (b"{" + b",".join(b'"%d": 1' % (key % 99_999) for key in range(100_000)) + b"}", "'0' appears twice"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 70 + b"]" * 70, "nested deeper"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper"),
    ],
)
def test_refused(text, message):
    with pytest.raises(ArtifactError, match=message):
        loads(text, "x.json")


def test_the_deepest_allowed_value_passes():
    loads(b"[" * (MAX_DEPTH - 1) + b"1" + b"]" * (MAX_DEPTH - 1), "x")
