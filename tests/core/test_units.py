import pytest

from moecompress.core.errors import UsageError
from moecompress.core.units import format_size, format_speed, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("600MiB", 600 * 2**20),
        ("2GB", 2_000_000_000),
        ("2 GiB", 2**31),
        ("1.5k", 1536),
        ("4096", 4096),
        (4096, 4096),
        ("7B", 7),
    ],
)
def test_sizes_parse(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "12 parsecs", "-3", "1e9", -1, "0x10"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="MiB"):
        parse_size(text)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (600 * 2**20, "600 MiB")])
def test_sizes_print_in_binary_units(count, text):
    assert format_size(count) == text


@pytest.mark.parametrize("count", [1023 * 2**20, 999 * 2**10, 2**45])
def test_printed_sizes_have_no_exponent(count):
    assert "e" not in format_size(count).replace("B", "")


@pytest.mark.parametrize(("speed", "text"), [(1743.2, "1743"), (100.4, "100"), (12.345, "12.3"), (0.4567, "0.457")])
def test_speeds_are_short(speed, text):
    assert format_speed(speed) == text
