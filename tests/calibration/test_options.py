import pytest
from pydantic import ValidationError

from moecompress.calibration.options import CalibrationOptions, TextSource


def problem(**values):
    with pytest.raises(ValidationError) as caught:
        CalibrationOptions.model_validate(values)
    return str(caught.value)


def test_defaults_are_the_builtin_calibration_text():
    options = CalibrationOptions()
    assert (options.tokens, options.sequence_length, options.seed) == (131072, 1024, 0)
    assert options.text_sources() == (TextSource(path="builtin"),)
    assert options.paths() == ()


def test_one_source_and_a_list_of_one_mean_the_same():
    single = CalibrationOptions(source="a.jsonl", kind="jsonl", text_field="body", split="train[:5]")
    listed = CalibrationOptions.model_validate(
        {"sources": [{"path": "a.jsonl", "kind": "jsonl", "text_field": "body", "split": "train[:5]"}]}
    )
    assert single.text_sources() == listed.text_sources()
    assert single.paths() == ("a.jsonl",)


def test_options_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        CalibrationOptions().tokens = 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"token": 5}, "Extra inputs are not permitted"),
        ({"tokens": "many"}, "valid integer"),
        ({"tokens": 0}, "greater than 0"),
        ({"sequence_length": 1}, "greater than 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"kind": "csv"}, "'auto', 'text', 'jsonl', 'parquet' or 'chat'"),
        ({"source": ""}, "at least 1 character"),
        ({"tokens": 100, "sequence_length": 200}, r"tokens (100) is less than one sequence (200)"),
        ({"source": "a", "sources": [{"path": "b"}]}, "either sources or source, not both"),
        ({"text_field": "x", "sources": [{"path": "b"}]}, "either sources or text_field, not both"),
        ({"sources": [{"path": "b", "weight": 0}]}, "greater than 0"),
        ({"split": "heldout"}, "heldout is kept for evaluation"),
        ({"sources": [{"path": "builtin", "split": "heldout"}]}, "heldout is kept for evaluation"),
    ],
)
def test_refusals_say_what_is_wrong(values, words):
    assert words in problem(**values)
