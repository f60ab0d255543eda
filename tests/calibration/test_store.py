import json
import threading

import pytest

from moecompress.calibration.store import StatisticsStore
from moecompress.core.errors import CalibrationError


@pytest.fixture
def store(tmp_path):
    return StatisticsStore(tmp_path / "statistics")


def test_the_key_depends_on_model_and_tokens(store):
    folders = {store.entry(source, tokens).folder for source in "ab" for tokens in "xy"}
    assert len(folders) == 4
    assert store.entry("a", "x").folder in folders
    assert json.loads((store.entry("a", "x").folder / "entry.json").read_text())["source"] == "a"


def test_a_layer_appears_whole_at_the_end(store):
    entry = store.entry("a", "x")
    with entry.new_layer(3) as folder:
        (folder / "file").write_text("content")
        assert not entry.has(3)
    assert entry.has(3) and (entry.folder / "layers" / "00003" / "file").read_text() == "content"


def test_a_failed_layer_leaves_nothing(store):
    entry = store.entry("a", "x")
    with pytest.raises(RuntimeError), entry.new_layer(3) as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert not entry.has(3) and not list((entry.folder / "layers").iterdir())


def test_what_a_killed_process_left_is_removed_under_the_lock(store):
    entry = store.entry("a", "x")
    half = entry.folder / "layers" / "00003.partial"
    half.mkdir()
    (entry.folder / "hidden-00002.npy.partial").write_bytes(b"half")
    with entry.locked():
        assert not half.exists() and not list(entry.folder.glob("*.partial"))


def test_hidden_states_are_found_and_dropped(store):
    entry = store.entry("a", "x")
    assert entry.latest_hidden(5) is None
    for layer in (1, 4):
        with entry.new_hidden(layer) as path:
            path.write_bytes(b"states")
    assert [entry.latest_hidden(layer) for layer in (0, 1, 3, 4, 9)] == [None, 1, 1, 4, 4]
    entry.drop_hidden(keep=4)
    assert entry.latest_hidden(3) is None and entry.latest_hidden(4) == 4
    entry.drop_hidden()
    assert entry.latest_hidden(9) is None


def test_one_process_writes_at_a_time(store):
    entry = store.entry("a", "x")
    entered = threading.Event()

    def second():
        with entry.locked():
            entered.set()

    with entry.locked():
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(5)
    thread.join()


def test_reading_what_is_missing_or_damaged(store):
    entry = store.entry("a", "x")
    with pytest.raises(CalibrationError, match="no statistics of layer 0 yet"):
        entry.layer(0)
    with entry.new_layer(0):
        pass
    with pytest.raises(CalibrationError, match=r"is damaged.*Delete the folder"):
        entry.layer(0)
