"""The comparison's machinery: workers, limits, results and the figures made from them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import peers
from comparison import capped, limits, paired, plan, results
from comparison.protocol import WorkerError, started
from comparison.workspace import PeerMissing, Workspace
from synthetic.artifact import Bits
from synthetic.tokens import stream

FAKE = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from protocol import serve
class Target:
    def double(self, value):
        print("a library speaks")
        return {{"value": 2 * value}}
    def fail(self):
        raise ValueError("no such layer")
    def die(self):
        print("out of memory", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
serve(Target())
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(FAKE.format(folder=str(Path(peers.__file__).parent / "comparison")))
    with started(sys.executable, script) as worker:
        yield worker


def test_a_worker_answers_and_says_what_it_used(worker):
    answer = worker.ask("double", value=21)
    assert answer["value"] == 42
    assert answer["used"]["peak_rss_bytes"] >= answer["used"]["rss_bytes"] > 1 << 20


def test_a_workers_error_is_raised_and_it_goes_on(worker):
    with pytest.raises(WorkerError, match="ValueError: no such layer"):
        worker.ask("fail")
    assert worker.ask("double", value=1)["value"] == 2


def test_a_killed_worker_is_reported_with_its_last_words(worker):
    with pytest.raises(WorkerError, match=r"asked to die: killed by signal 9\. out of memory"):
        worker.ask("die")


def test_a_paused_worker_is_ended_too(worker):
    worker.pause()


def workspace(tmp_path, **changes) -> Workspace:
    return Workspace(**{"folder": tmp_path, "peer": None, "own": sys.executable, "threads": 1, **changes})


def test_our_worker_decodes_given_ids(tmp_path, monkeypatch, weights):
    from synthetic import shapes

    monkeypatch.setitem(shapes.PRESETS, "tiny", weights.shape)
    work = workspace(tmp_path, report=lambda line: None)
    path, ids = work.artifact("tiny", Bits(4, 8, 8)), stream(weights.shape, 12)
    with work.own_worker() as worker:
        worker.ask("open", path=str(path), threads=1, context=64, memory="4GiB")
        assert worker.ask("prefill", ids=ids[:8])["reused"] == 0
        answer = worker.ask("decode", ids=ids[8:])
        assert len(answer["seconds"]) == len(answer["tokens"]) == 4
        assert answer["store"]["decode_hits"] + answer["store"]["decode_misses"] == 4 * 3 * 2
        assert len(worker.ask("decode", ids=ids[8:], limit=0.0)["seconds"]) == 1


def test_a_missing_peer_is_named_with_the_command_that_installs_it(tmp_path):
    with pytest.raises(PeerMissing, match=r"pip install \"moecompress\[peers\]\".*--without-peer"):
        workspace(tmp_path, peer=str(tmp_path / "no-python")).peer_hello  # noqa: B018
    assert workspace(tmp_path).peer_hello is None


def test_the_command_fails_with_that_message(tmp_path, capsys):
    arguments = ["--json", str(tmp_path / "out.json"), "--work", str(tmp_path), "--peer-python", "/no/python"]
    assert peers.main(arguments) == 1
    assert "cannot run llama-cpp-python" in capsys.readouterr().err


def test_finished_measurements_are_kept_and_not_repeated(tmp_path):
    path, calls = tmp_path / "out.json", []
    first = results.Results(path, {"threads": 2, "caps": (0.75, 0.5)})
    assert first.measure("start", lambda: calls.append(1) or {"import_to_first_token_s": 0.25})
    second = results.Results(path, {"threads": 2, "caps": (0.75, 0.5)})
    assert not second.measure("start", lambda: calls.append(2) or {})
    assert calls == [1]
    assert json.loads(path.read_text())["import_to_first_token_s"] == 0.25


def test_results_of_other_settings_are_refused(tmp_path):
    results.Results(tmp_path / "out.json", {"threads": 2}).describe(machine={})
    with pytest.raises(ValueError, match="other settings"):
        results.Results(tmp_path / "out.json", {"threads": 1})


def test_the_headline_has_the_keys_that_checks_read():
    cap = {"ratio": 5.0, "disk_bytes_ratio": 0.3, "ours_tps": 10.0, "peer_tps": 2.0, "rss_over_budget": 0}
    measured = {
        "start": {"rss_before_weights_bytes": 40 << 20, "import_to_first_token_s": 0.3},
        "kernels": {"share": {"8": 0.9, "4": 0.85}},
        "resident/Q4_K_M": {"ratio": 1.8},
        "resident/IQ3_XXS": {"ratio": 3.0},
        "resident/IQ2_XS": {"ratio": 2.5},
        "prefill/olmoe-7b": {"ratio": 1.5},
        "prefill/olmoe-1.8b/all types": {"ratio": 1.2},
        "capped/0.75": cap,
        "capped-8MiB/0.75": {**cap, "ratio": 20.0},
    }
    found = results.headline(measured)
    assert found["kernels"] == {"8": 0.9, "4": 0.85}
    assert (found["resident_decode_ratio"], found["iquant_decode_ratio"], found["prefill_ratio"]) == (1.8, 2.5, 1.2)
    assert list(found["capped"]) == ["0.75"]
    assert {key: found["capped"]["0.75"][key] for key in cap} == cap
    assert (found["rss_before_weights_bytes"], found["import_to_first_token_s"]) == (40 << 20, 0.3)


def test_an_empty_headline_holds_nothing_but_its_keys():
    assert not any(results.headline({}).values())


def run(tps, disk, peak=100, **more):
    return {
        "tps": tps,
        "disk_bytes_per_token": disk,
        "peak_rss_bytes": peak,
        "budget_bytes": 100,
        "oom_kills": 0,
    } | more


def test_capped_ratios_are_medians_over_pairs_of_runs():
    ours = [run(10, 30, hit_rate=0.5), run(20, 20, peak=103, hit_rate=0.7), run(30, 10, hit_rate=0.9)]
    found = capped.summary({"ours": ours, "peer": [run(5, 100), run(5, 100), run(5, 100)]})
    assert (found["ratio"], found["disk_bytes_ratio"], found["ours_tps"], found["peer_tps"]) == (4.0, 0.2, 20, 5)
    assert (found["rss_over_budget"], found["hit_rate"], found["oom_kills"]) == (3, 0.7, 0)


def test_a_killed_peer_has_no_speed_and_is_counted():
    killed = {"tps": None, "disk_bytes_per_token": None, "budget_bytes": 100, "oom_kills": 1, "error": "killed"}
    found = capped.summary({"ours": [run(10, 30), run(12, 30)], "peer": [killed, run(4, 60)]})
    assert (found["ratio"], found["peer_oom_kills"]) == (3.0, 1)
    assert capped.summary({"ours": [run(10, 30)], "peer": [killed]})["ratio"] is None


def test_portions_differ_and_share_no_beginning():
    ids = list(range(100, 400))
    parts = [paired.portion(ids, turn, 40) for turn in range(12)]
    assert all(len(part) == 40 for part in parts)
    assert len({part[0] for part in parts}) == 12


def test_a_paired_ratio_is_the_median_of_the_turns_ratios():
    assert paired.paired_ratio([1.0, 2.0, 4.0], [2.0, 6.0, 4.0]) == 2.0


def test_read_ahead_is_put_back_whatever_happens(tmp_path, monkeypatch):
    setting = tmp_path / "read_ahead_kb"
    setting.write_text("8192\n")
    monkeypatch.setattr(limits, "read_ahead_setting", lambda file: setting)
    with pytest.raises(RuntimeError), limits.read_ahead(tmp_path, 128):
        assert setting.read_text() == "128"
        raise RuntimeError
    assert setting.read_text() == "8192\n"


def test_a_group_that_cannot_be_made_is_an_error_that_says_what_it_needs(tmp_path):
    with pytest.raises(limits.LimitsError, match="Capped runs need root"), limits.memory_group(1, tmp_path / "none"):
        pass


@pytest.mark.parametrize(
    ("name", "text"), [("memory.oom_control", "oom_kill_disable 0\noom_kill 2"), ("memory.events", "oom 3\noom_kill 2")]
)
def test_kills_are_read_from_either_kind_of_group(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert limits.MemoryGroup(tmp_path).oom_kills == 2


def test_our_half_alone_is_measured_by_one_command(tmp_path, monkeypatch, weights):
    from synthetic import shapes

    tiny = replace(plan.QUICK, large="tiny", small="tiny", repeats=1, decode_tokens=4, prefill_tokens=16, context=64)
    monkeypatch.setitem(shapes.PRESETS, "tiny", replace(weights.shape, hidden=128, width=128))
    monkeypatch.setattr(peers, "QUICK", tiny)
    monkeypatch.setattr(peers.start, "tiny_artifact", lambda work: tmp_path)
    out = tmp_path / "out.json"
    arguments = ["--json", str(out), "--work", str(tmp_path), "--quick", "--without-peer", "--threads", "1"]
    assert peers.main([*arguments, "--only", "resident/Q4", "prefill/tiny/all"]) == 0
    found = json.loads(out.read_text())
    assert set(found["measurements"]) == {"resident/Q4_K_M", "prefill/tiny/all types"}
    assert found["measurements"]["resident/Q4_K_M"]["ours"]["tps"] > 0
    assert found["peer"] is None and found["machine"]["cores"] >= 1
