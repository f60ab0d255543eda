import re

import pytest

from moecompress.report.html import write_report
from moecompress.report.table import HEADINGS, Row, cells

ROWS = [
    Row("original", 1_000_000, 16.0, 10.0, 0.1),
    Row("artifact <b>", 300_000, 4.5, 10.2, 0.1, 0.01, 0.97, 55.0, 80 << 20),
]
NOTES = [{"pass": "quantize.experts", "error": [0.1, 0.2], "tokens": [5, 7]}, {"pass": "x"}]


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, "A title", ROWS, [[4.5, 4.5], [3.5]], NOTES, {"seed": 0, "recipe": "<script>"}, ("in", "out"))
    return path.read_text()


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "<script" not in page
    assert "@import" not in page


def test_every_figure_of_the_rows_is_there_and_escaped(page):
    for row in ROWS:
        for cell in cells(row):
            assert cell.replace("<", "&lt;").replace(">", "&gt;") in page
    for heading in HEADINGS:
        assert heading in page
    assert "&lt;script&gt;" in page


def test_maps_of_bits_error_and_usage_are_drawn(page):
    for heading in ("Size and perplexity", "Bits per expert", "Error per expert", "Expert usage"):
        assert heading in page
    assert page.count("<svg") == 4


def test_the_same_figures_give_the_same_page(tmp_path):
    texts = []
    for name in ("a", "b"):
        write_report(tmp_path / name, "t", ROWS, [[1.0]], NOTES, {})
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]


def test_what_was_not_measured_is_a_dash_not_a_zero():
    assert cells(ROWS[0])[4:] == ("–", "–", "–", "–")
