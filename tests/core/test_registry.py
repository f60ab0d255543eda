import sys

import pytest

from moecompress.core.errors import MoecompressError
from moecompress.core.registry import member, members, names, nearest


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "shelf"
    (root / "deep").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "base.py": "ITEM = 'not a member'",
        "_helper.py": "ITEM = 'not a member'",
        "one.py": "ITEM = 1",
        "plain.py": "",
        "deep/__init__.py": "",
        "deep/two.py": "ITEM = 2",
    }.items():
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    caches = (member, members, names)
    for cached in caches:
        cached.cache_clear()
    yield root
    for cached in caches:
        cached.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf"]:
        del sys.modules[name]


def test_members_are_found_by_folder_scan(package):
    assert members("shelf", "ITEM") == {"one": 1, "deep.two": 2}


def test_a_module_that_fails_to_import_is_not_swallowed(package):
    (package / "broken.py").write_text("import no_such_module_anywhere")
    with pytest.raises(ModuleNotFoundError):
        members("shelf", "ITEM")


def test_a_folder_that_fails_to_import_is_not_swallowed(package):
    (package / "deep" / "__init__.py").write_text("import no_such_module_anywhere")
    with pytest.raises(ModuleNotFoundError):
        members("shelf", "ITEM")


def test_one_member_is_found_without_importing_the_others(package):
    (package / "broken.py").write_text("import no_such_module_anywhere")
    assert names("shelf") == ("broken", "one", "plain")
    assert member("one", "shelf", "ITEM") == 1
    assert "shelf.plain" not in sys.modules


@pytest.mark.parametrize("name", ["plain", "two", "base", "_helper", "..one", "os", ""])
def test_what_is_no_member_is_none(package, name):
    assert member(name, "shelf", "ITEM") is None


def test_a_member_deeper_down_is_found_by_its_path(package):
    assert member("deep.two", "shelf", "ITEM") == 2


def test_a_member_may_come_from_an_entry_point(package, monkeypatch):
    class Entry:
        name = "three"

        def load(self):
            return 3

    monkeypatch.setattr("moecompress.core.registry._entry_points", lambda group: [Entry()])
    assert member("three", "shelf", "ITEM", "some.group") == 3


def test_nearest_suggests_or_lists():
    assert "'gptq'" in nearest("gtpq", ["gptq", "rtn"])
    assert "gptq, rtn" in nearest("zzz", ["rtn", "gptq"])


def test_an_entry_point_may_not_hide_a_builtin(package, monkeypatch):
    class Entry:
        name = "one"

    monkeypatch.setattr("moecompress.core.registry._entry_points", lambda group: [Entry()])
    with pytest.raises(MoecompressError, match="hides"):
        members("shelf", "ITEM", "some.group")
