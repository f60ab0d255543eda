"""What `plan` says about running an artifact, against the artifact that the run makes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moecompress.models.discover import discover
from moecompress.models.source import TensorSource
from moecompress.pipeline.device import device_needs
from moecompress.pipeline.plan import make_plan
from moecompress.pipeline.run import run_recipe
from moecompress.recipe.load import load_recipe
from moecompress.runtime.footprint import Footprint
from moecompress.runtime.loading import LoadOptions, demand, describe

RECIPE = """\
version: 1
passes:
  - quantize.experts: {method: rtn, bits: {gate: 3, up: 3, down: 4}, group_size: 32}
  - quantize.trunk: {method: rtn, bits: 8, group_size: 32}
"""


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
def test_planned_needs_are_those_of_the_artifact(tiny, tmp_path, family):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, source = load_recipe(tmp_path / "recipe.yaml"), TensorSource.open(tiny(family))
    planned = make_plan(recipe, source, discover(source)).device
    run_recipe(recipe, tiny(family), tmp_path / "out", tmp_path / "cache")
    tables = describe(tmp_path / "out").tables
    asked, footprint = replace(demand(tables, LoadOptions.of()), interpreter=0, peak=0), Footprint.of(tables)
    assert planned is not None
    assert (planned.floor_bytes, planned.resident_bytes) == (asked.floor, asked.resident)
    assert (planned.token_bytes, planned.token_set_bytes) == (footprint.token_bytes, footprint.record_bytes)
    assert planned.context == asked.context


def test_a_family_that_the_engine_does_not_run_has_no_needs():
    assert device_needs("deepseek_v3", {}, {}, {}) is None
