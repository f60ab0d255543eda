from moecompress.pipeline.state import RunState, UnitEntry, unit_name

ENTRY = UnitEntry("layer-00002", ("a.weight",), {"a.weight": "kept"}, ({"pass": "x", "error": [0.5]},))


def test_an_entry_survives_and_says_the_same(tmp_path):
    RunState(tmp_path / "out", "f" * 64).finish(ENTRY)
    assert RunState(tmp_path / "out", "f" * 64).entry("layer-00002") == ENTRY
    assert RunState(tmp_path / "out", "f" * 64).entry("layer-00003") is None


def test_work_of_another_recipe_is_never_picked_up(tmp_path):
    first = RunState(tmp_path / "out", "a" * 64)
    first.finish(ENTRY)
    second = RunState(tmp_path / "out", "b" * 64)
    assert second.entry("layer-00002") is None
    assert second.unfinished_others() == [first.folder]


def test_a_half_written_entry_does_not_count(tmp_path):
    state = RunState(tmp_path / "out", "f" * 64)
    (state.folder / "layer-00002.tmp").write_text('{"unit": "layer')
    assert state.entry("layer-00002") is None


def test_remove_leaves_other_work_and_otherwise_nothing(tmp_path):
    first, second = (RunState(tmp_path / "out", letter * 64) for letter in "ab")
    first.remove()
    assert second.folder.is_dir()
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_unit_names_sort_like_layers():
    assert sorted(unit_name(i) for i in (10, 2)) == ["layer-00002", "layer-00010"]
    assert unit_name(None) == "outside"
