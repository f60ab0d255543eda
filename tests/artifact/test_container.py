"""The safetensors container: valid for the safetensors library, and page-aligned."""

import json

import numpy as np
import pytest

from moecompress.artifact.container import PAGE, Span, aligned, build_header, read_header
from moecompress.artifact.files import ArtifactFolder
from moecompress.core.errors import ArtifactError


def write(folder, header, data):
    (folder / "x.safetensors").write_bytes(header + data)
    with ArtifactFolder(folder) as opened, opened.open("x.safetensors") as file:
        return read_header(file)


def test_header_ends_on_a_page_and_is_read_back(tmp_path):
    header = build_header([("b", 64), ("a", 128), ("é", 0)])
    assert len(header) == PAGE and header.endswith(b" ")
    spans = write(tmp_path, header, bytes(192))
    assert spans == {"b": Span(4096, 64), "a": Span(4160, 128), "é": Span(4288, 0)}


@pytest.mark.parametrize("count", [1, 40, 41, 42, 43, 44, 200])
def test_header_of_any_length_is_whole_pages(count):
    header = build_header((f"tensor.{index:04d}", 64) for index in range(count))
    assert len(header) % PAGE == 0 and len(header) - PAGE < len(header.rstrip()) <= len(header)


def test_the_safetensors_library_reads_it(tmp_path):
    numpy_io = pytest.importorskip("safetensors.numpy")
    data = np.arange(192, dtype=np.uint8).tobytes()
    write(tmp_path, build_header([("b", 64), ("a", 128)]), data)
    loaded = numpy_io.load_file(tmp_path / "x.safetensors")
    assert loaded["b"].tobytes() == data[:64] and loaded["a"].tobytes() == data[64:]


def test_aligned():
    assert [aligned(position, 64) for position in (0, 1, 64, 65)] == [0, 64, 64, 128]


def text_header(entries):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    size = aligned(8 + len(text), PAGE) - 8
    return size.to_bytes(8, "little") + text.ljust(size)


def entry(first, last, dtype="U8", shape=None):
    return {"dtype": dtype, "shape": [last - first] if shape is None else shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": entry(0, 64), "b": entry(0, 64)}, "begins at byte 4096, expected 4160"),
        ({"a": entry(0, 32)}, "tensors end at byte 4128"),
        ({"a": entry(0, 32), "b": entry(40, 64)}, "begins at byte 4136, expected 4128"),
        ({"a": entry(0, 128)}, "tensors end at byte 4224"),
        ({"a": entry(64, 0)}, "not a flat U8"),
        ({"a": entry(-64, 0)}, "not a flat U8"),
        ({"a": entry(0, 2**63)}, "tensors end at byte"),
        ({"a": entry(0, 64, shape=[8, 8])}, "not a flat U8"),
        ({"a": entry(0, 64, shape=[63])}, "not a flat U8"),
        ({"a": entry(0, 64, dtype="F32")}, "not a flat U8"),
        ({"a": {**entry(0, 64), "more": 1}}, "not a flat U8"),
        ({"a": {"dtype": "U8"}}, "not a flat U8"),
        ({"a": 3}, "not a flat U8"),
        (b'{"a": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}, "a": 1}', "'a' appears twice"),
        (b"[]", "does not begin with an opening brace"),
        (b"{", "not valid JSON"),
    ],
)
def test_malformed_headers_are_refused(tmp_path, entries, message):
    with pytest.raises(ArtifactError, match=message):
        write(tmp_path, text_header(entries), bytes(64))


@pytest.mark.parametrize("size", [0, 5, 4000, 4088 + 4096, 2**31, 2**63, 2**64 - 1])
def test_impossible_header_sizes_are_refused(tmp_path, size):
    with pytest.raises(ArtifactError, match=f"header of {size} bytes is not possible"):
        write(tmp_path, size.to_bytes(8, "little"), b"{}".ljust(4088))


def test_a_file_shorter_than_its_length_field_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="bytes 0 to 8 are not in it"):
        write(tmp_path, b"", b"abc")
