"""Reads that fail, fall short or come late: the request ends with an error, and the engine goes on as before."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from moecompress.testing.read_faults import TOKENS, Fault, Report, Scenario, run_scenarios

LAYERS, EXPERTS, TOP_K = 6, 8, 2
EIO = Fault("fail", errno.EIO)
PHASES = ("prefill", "decode")
WAYS = {
    "three slots": {},
    "buffered": {"io": "buffered"},
    "two threads, one lane": {"threads": 2, "lanes": 1},
    "long chunk": {"chunk": 64, "slots": 5},
}
FAILING = {
    "input and output error": EIO,
    "fourth read": Fault("fail", errno.EIO, first=4, last=4),
    "one of the last layer": Fault("fail", errno.EIO, file="experts-00005", first=2, last=2),
    "no memory in the kernel": Fault("fail", errno.ENOMEM),
    "end of the file": Fault("shorten", 0),
    "end of the file later": Fault("shorten", 0, first=3, last=3),
}
HARMLESS = {
    "interrupted": Fault("fail", errno.EINTR, first=1, last=50),
    "one page at a time": Fault("shorten", 4096),
}
SCENARIOS: dict[str, Scenario] = {}
for phase in PHASES:
    for way, options in WAYS.items():
        for name, fault in {**FAILING, **HARMLESS}.items():
            SCENARIOS[f"{phase}, {way}, {name}"] = Scenario(phase, fault, options, repeats=8 if fault == EIO else 1)
    odd = Fault("shorten", 1000)
    SCENARIOS[f"{phase}, buffered, odd length"] = Scenario(phase, odd, {"io": "buffered"})
for file in ("trunk", "experts-00003", "manifest.json", "tokenizer.json"):
    SCENARIOS[f"open, {file}"] = Scenario("open", Fault("fail", errno.EIO, file=file), repeats=2)
    SCENARIOS[f"open, {file}, interrupted"] = Scenario("open", Fault("fail", errno.EINTR, file=file, first=1, last=3))
RESIDENT = {
    "slots": None,
    "io": "buffered",
}  # read from the moment the artifact is opened; buffered: no read is a probe
SCENARIOS["open, resident, input and output error"] = Scenario("open", EIO, RESIDENT, repeats=3)
SCENARIOS["open, resident, end of the file"] = Scenario("open", Fault("shorten", 0), RESIDENT)
SCENARIOS["open, resident, one page at a time"] = Scenario("open", Fault("shorten", 4096), RESIDENT)
SCENARIOS["resident, passing"] = Scenario("open", Fault("fail", errno.EIO, "experts-00005", last=1), RESIDENT)
for phase in PHASES:
    for layer in (0, 3):
        held = Fault("hold", file=f"experts-{layer:05d}")
        SCENARIOS[f"cancel, {phase}, {layer}"] = Scenario(
            phase, held, {"slots": 2, "threads": 2}, repeats=3, cancel=True
        )


@pytest.fixture(scope="module")
def sparse(encoded) -> Path:
    return encoded("qwen3_moe", num_hidden_layers=LAYERS)[0]


@pytest.fixture(scope="module")
def reports(sparse: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("faults")
    return dict(zip(SCENARIOS, run_scenarios(sparse, list(SCENARIOS.values()), folder), strict=True))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_next_request_finds_everything_as_it_was(reports, name):
    report = reports[name]
    assert report.after == report.expected and len(report.expected) == TOKENS
    assert report.misses == report.expected_misses


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.rsplit(", ", 1)[1] in FAILING])
def test_a_failed_read_is_an_error_of_its_request(reports, name):
    report = reports[name]
    assert set(report.endings) == {"RequestError"} and report.faults > 0
    assert all(".safetensors" in message for message in report.messages)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.rsplit(", ", 1)[1] in (*HARMLESS, "odd length")])
def test_interrupted_and_short_reads_are_taken_up_again(reports, name):
    report = reports[name]
    assert report.endings == ["fine"] and report.damaged == report.expected and report.faults > 0


def test_what_could_not_be_read_ahead_is_read_again_on_demand(reports):
    report = reports["resident, passing"]
    assert report.endings == ["fine"] and report.damaged == report.expected and report.faults > 1


@pytest.mark.parametrize("file", ["trunk", "experts-00003", "manifest.json", "tokenizer.json"])
def test_an_artifact_that_cannot_be_read_is_refused_when_it_is_opened(reports, file):
    report = reports[f"open, {file}"]
    assert set(report.endings) <= {"ArtifactError", "RequestError"} and report.faults > 0
    assert all(file in message for message in report.messages)
    assert reports[f"open, {file}, interrupted"].endings == ["fine"]


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("phase", PHASES)
def test_cancel_ends_a_request_in_the_layer_that_runs(reports, phase, layer):
    """Reads of a layer are held, the request is cancelled, the reads go on: no later layer asks for an expert."""
    report = reports[f"cancel, {phase}, {layer}"]
    assert set(report.endings) == {"RequestCancelled"} and len(report.endings) == 3
    per_layer = EXPERTS if phase == "prefill" else TOP_K
    assert layer * per_layer < report.lookups <= (layer + 1) * per_layer
