"""The builtin texts: disjoint and stable splits, large enough, free of generated tables."""

import subprocess
import sys

import pytest

from moecompress.calibration import builtin
from moecompress.calibration.builtin import SPLITS, Document, builtin_documents, builtin_passages, split_of
from moecompress.core.errors import MoecompressError


def size_of(documents: list[Document], kind: str = "") -> int:
    return sum(len(document.text.encode()) for document in documents if document.name.startswith(kind))


def test_splits_are_disjoint_and_sorted():
    names = {split: [document.name for document in builtin_documents(split)] for split in SPLITS}
    assert all(listed == sorted(set(listed)) for listed in names.values())
    assert sum(map(len, names.values())) == len(set().union(*names.values()))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("code/json/decoder.py", "train"),
        ("code/argparse.py", "train"),
        ("code/enum.py", "calibration"),
        ("code/tarfile.py", "calibration"),
        ("code/threading.py", "heldout"),
        ("docs/compound", "heldout"),
    ],
)
def test_split_of_a_name_never_changes(name, split):
    assert split_of(name) == split
    assert name in {document.name for document in builtin_documents(split)}


@pytest.mark.parametrize("split", ["calibration", "heldout"])
def test_held_splits_are_large_and_mixed(split):
    documents = builtin_documents(split)
    assert size_of(documents) >= 400_000
    assert size_of(documents, "code/") > 0
    assert size_of(documents, "docs/") > 10_000


def test_train_is_most_of_the_text():
    sizes = {split: size_of(builtin_documents(split)) for split in SPLITS}
    assert sizes["train"] > 0.75 * sum(sizes.values())


def test_no_tests_packages_tables_or_machine_settings():
    names = [document.name for split in SPLITS for document in builtin_documents(split)]
    forbidden = (
        "/test/",
        "/tests/",
        "site-packages",
        "ensurepip",
        "cp1252",
        "pydoc_data",
        "_sysconfigdata",
        "entities",
    )
    assert not [name for name in names if any(part in name for part in forbidden)]
    assert all("\\" not in name and not name.startswith(("/", "code//")) for name in names)


def test_every_document_has_text():
    assert all(document.text.strip() for split in SPLITS for document in builtin_documents(split))


def test_unknown_split_names_the_choices():
    with pytest.raises(MoecompressError, match=r"'test'.*train, calibration, heldout"):
        builtin_documents("test")


def test_python_without_sources_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin.sysconfig, "get_path", lambda _name: str(tmp_path))
    builtin._all_documents.cache_clear()
    try:
        with pytest.raises(MoecompressError, match="no standard-library sources"):
            builtin_documents("train")
    finally:
        builtin._all_documents.cache_clear()


def test_import_needs_no_torch():
    code = "import sys, moecompress.calibration.builtin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_passages_are_beginnings_of_heldout_documents_of_both_kinds():
    texts = {document.text for document in builtin_documents("heldout")}
    passages = builtin_passages("heldout", 12, 3000)
    assert len(passages) == len(set(passages)) == 12 and {len(passage) for passage in passages} == {3000}
    assert all(any(text.startswith(passage) for text in texts) for passage in passages)
    assert builtin_passages("heldout", 3, 3000) == passages[:3]
