import json

import pytest

from moecompress.calibration.corpus import heldout_corpus, open_corpora
from moecompress.calibration.options import TextSource
from moecompress.core.errors import CalibrationError


def render(messages):
    return "|".join(f"{message['role']}: {message['content']}" for message in messages)


def texts(path, **options):
    with open_corpora(TextSource(path=str(path), **options), render) as corpora:
        rows = [(corpus, row) for corpus in corpora for row in range(len(corpus.lengths)) if corpus.lengths[row]]
        return [corpus.text(row) for corpus, row in rows]


def refusal(path, **options):
    with pytest.raises(CalibrationError) as caught:
        texts(path, **options)
    return str(caught.value)


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_text_file_is_one_row_with_its_line_breaks(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo é\n")
    assert texts(tmp_path / "a.txt") == ["one\n\ntwo é\n"]


def test_a_file_of_unknown_suffix_is_text(tmp_path):
    (tmp_path / "README").write_text("words")
    assert texts(tmp_path / "README") == ["words"]


def test_jsonl_rows_by_the_default_and_a_named_field(tmp_path):
    path = jsonl(
        tmp_path / "a.jsonl", {"text": "x", "body": "X"}, {"text": None, "body": "Y"}, {"text": "z", "body": ""}
    )
    assert texts(path) == ["x", "z"]
    assert texts(path, text_field="body") == ["X", "Y"]
    assert texts(path, split="train[:1]") == ["x"]


def test_parquet_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "yy"]}), tmp_path / "a.parquet")
    with open_corpora(TextSource(path=str(tmp_path / "a.parquet")), render) as (corpus,):
        assert list(corpus.lengths) == [1, 2]
        assert corpus.text(1) == "yy"


def test_chat_rows_go_through_the_template(tmp_path):
    rows = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    path = jsonl(tmp_path / "a.jsonl", rows)
    assert texts(path) == texts(path, kind="chat") == ["user: hi|assistant: yes"]


def test_a_folder_is_read_in_the_order_of_names_and_by_suffix(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    jsonl(tmp_path / "c.jsonl", {"text": "third"})
    assert texts(tmp_path) == ["first", "second", "third"]
    assert texts(tmp_path, kind="jsonl") == ["third"]


def test_builtin_splits_differ():
    with open_corpora(TextSource(path="builtin"), render) as (calibration,):
        held = heldout_corpus()
        ours = {calibration.text(row) for row in range(len(calibration.lengths))}
        assert not ours & {held.text(row) for row in range(len(held.lengths))}
        assert calibration.lengths[3] == len(calibration.text(3))


def test_missing_file(tmp_path):
    message = refusal(tmp_path / "no.txt")
    assert "does not exist" in message and "builtin" in message


def test_empty_file_and_folder_without_text(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert "is empty" in refusal(tmp_path / "a.txt")
    assert "is empty" in refusal(tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "a.bin")
    assert "holds no file of kind auto; looked for .txt" in refusal(tmp_path)


def test_wrong_field_names_the_columns(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"body": "x", "title": "t"})
    assert "has no column 'text'; it has body, title" in refusal(path)
    assert "holds int64, not text" in refusal(jsonl(tmp_path / "b.jsonl", {"text": 3}))


def test_chat_rows_that_are_no_messages(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"messages": [{"from": "user", "value": "hi"}]})
    assert "not a list of messages with role and content" in refusal(path)


@pytest.mark.parametrize(
    ("name", "data"), [("a.jsonl", b'{"text": \n'), ("a.parquet", b"PAR1"), ("a.txt", b"\xff\xfe\xfa")]
)
def test_damaged_files(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    message = refusal(tmp_path / name)
    assert "could not be read as" in message and "Check the path, kind and split" in message


def test_unknown_split(tmp_path):
    assert "train" in refusal(jsonl(tmp_path / "a.jsonl", {"text": "x"}), split="test")


def test_a_hub_id_offline_says_what_to_do(monkeypatch):
    import datasets

    def offline(path, **options):
        assert (path, options) == ("owner/name", {"split": "train[:9]"})
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    message = refusal("owner/name", split="train[:9]")
    assert "no local file or folder" in message and "copy the data here and give its path" in message


def test_a_hub_id_online_gives_its_rows(monkeypatch):
    import datasets

    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, split: datasets.Dataset.from_dict({"text": [path, split]})
    )
    assert texts("owner/name") == ["owner/name", "train"]
