"""A profile in words, in the terminal and as a page."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from moecompress.pipeline.profile import ExpertProfile, Profile
from moecompress.report.profile import findings, shades, usage_table, write_profile


def expert(index, layer, text=True):
    shape = {"kurtosis": 3.0 + index + layer, "alpha": 2.5, "stable_rank": 8.0, "energy": 0.4}
    if not text:
        return ExpertProfile(index, **shape)
    share = [0.9, 0.6, 0.45, 0.05][index]
    nats = {bits: (index + 1) * 4.0**-bits for bits in (2, 3, 4)}
    return ExpertProfile(index, **shape, share=share, weight=0.5, trace=1.0, error=nats, nats=nats)


def profile(text=True):
    layers = {layer: tuple(expert(index, layer, text) for index in range(4)) for layer in (1, 3)}
    return Profile("mixtral", "some <text>" if text else "", 64, {2: 2.5, 3: 3.5, 4: 4.5}, layers)


def shown(table):
    console = Console(width=160, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_use_is_shaded_and_sums_are_right():
    assert shades(np.array([0.0, 0.5, 1.0])) == "▁▅█" and shades(np.zeros(3)) == "▁▁▁"
    lines = shown(usage_table(profile())).splitlines()
    assert "nats at 2 bits" in lines[0] and lines[1].split()[0] == "1" and "5.0% / 90.0%" in lines[1]
    assert f"{10 * 4.0**-2:.4f}" in lines[1] and "5.50 (7.00)" in lines[1]
    assert "use of experts" not in shown(usage_table(profile(text=False)))


def test_findings_name_the_easy_the_hard_and_the_rare():
    said = " ".join(findings(profile()))
    assert "Safest at 2 bits: 1/0, 3/0, 1/1, 3/1" in said
    assert "First to need 3 bits: 3/3, 1/3" in said
    assert "2 of 8 experts are used less than a quarter of the average: 1/3, 3/3." in said
    assert "kurtosis" in said and "low rank alone would lose much" in said
    assert "bits" not in " ".join(findings(profile(text=False)))


@pytest.mark.parametrize(("text", "maps"), [(True, 7), (False, 3)])
def test_the_page_stands_alone(text, maps, tmp_path):
    path = tmp_path / "profile.html"
    write_profile(path, "Profile of a <b>", profile(text))
    page = path.read_text()
    assert page.count("<svg") == maps and "Profile of a &lt;b&gt;" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page) and "<script" not in page
    assert ("some &lt;text&gt;" in page) == text and list(tmp_path.iterdir()) == [path]
