"""MxMoE: error against time, and where the times come from."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from moecompress.passes.allocate import mxmoe


def uneven(layer, expert, projection, bits):
    return (1 + expert) * {"gate": 1, "up": 1, "down": 4}[projection] * 4.0**-bits


def test_time_and_error_are_traded(toy):
    made = {r: toy("mxmoe", average=2.5, error=uneven, accuracy=r).choose().details for r in (0.0, 0.5, 1.0)}
    assert made[0.0]["seconds_per_token"] < made[1.0]["seconds_per_token"]
    assert made[1.0]["loss"] < made[0.0]["loss"]
    assert made[0.0]["seconds_per_token"] <= made[0.5]["seconds_per_token"] <= made[1.0]["seconds_per_token"]


def test_gate_and_up_share_a_width_and_down_has_its_own(toy):
    made = toy("mxmoe", average=2.5, error=uneven, accuracy=1.0)
    assert made.bits("gate") == made.bits("up") != made.bits("down")
    assert np.mean(made.bits("down")) > np.mean(made.bits("up"))


def test_time_is_use_times_kernel_and_read(toy):
    table = {
        "machine": "m",
        "command": "c",
        "seconds_per_weight": {b: b * 1e-9 for b in range(1, 9)},
        "seconds_per_byte": 1e-8,
    }
    made = toy("mxmoe", average=2.5, costs=table, read_share=0.25, counts=[[50, 0, 10, 10]] * 2)
    times = mxmoe.times(made.candidates, made.options, made.findings)
    weights, first = 3 * 256 * 128, made.candidates
    assert times[0, 0] == pytest.approx(0.5 * (weights * 1e-9 + 0.25 * 1e-8 * first.bytes[0, 0]))
    assert times[1].tolist() == [0.0] * 16


def test_a_table_may_be_a_file_and_is_recorded(toy, tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(mxmoe._BUNDLED.read_text().replace("AMD EPYC", "a board"))
    options = toy("mxmoe", average=2.5, costs=str(path)).options
    assert options.costs.machine.startswith("a board")
    assert json.loads(options.model_dump_json())["costs"]["machine"].startswith("a board")
    with pytest.raises(ValidationError, match="not a table of runtime costs"):
        toy("mxmoe", average=2.5, costs=str(tmp_path / "none.json"))
