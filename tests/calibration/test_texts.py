import hashlib
import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from moecompress.calibration.options import CalibrationOptions
from moecompress.calibration.texts import evaluation_windows, pack
from moecompress.calibration.tokenizer import TextEncoder
from moecompress.core.errors import CalibrationError
from moecompress.testing.tiny import write_tokenizer

EOS = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "vocab_size": 304}))
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder.open(folder, json.loads((folder / "config.json").read_text()))


def options(**values):
    return CalibrationOptions.model_validate({"tokens": 512, "sequence_length": 64, **values})


def refusal(encoder, **values):
    with pytest.raises(CalibrationError) as caught:
        pack(options(**values), encoder)
    return str(caught.value)


def numbered(count):
    return "".join(f"line {number}\n" for number in range(count))


def test_exact_shape_hash_and_repeatability(encoder):
    tokens = pack(options(), encoder)
    assert tokens.ids.shape == (8, 64) and tokens.ids.dtype == np.int32
    assert tokens.hash == hashlib.sha256(b"8 64\n" + tokens.ids.astype("<i4").tobytes()).hexdigest()
    assert tokens.description == "8 sequences of 64 tokens from builtin, seed 0"
    again = pack(options(), encoder)
    assert np.array_equal(again.ids, tokens.ids) and again.hash == tokens.hash


def test_seed_changes_the_text_and_tokens_only_its_amount(encoder):
    assert pack(options(seed=1), encoder).hash != pack(options(), encoder).hash
    more = {row.tobytes() for row in pack(options(tokens=1024), encoder).ids}
    assert {row.tobytes() for row in pack(options(), encoder).ids} <= more


def test_a_short_text_is_packed_whole_with_separators(encoder, tmp_path):
    first, second = "line one\n" * 5, "other words\n" * 4
    (tmp_path / "a.txt").write_text(first)
    (tmp_path / "b.txt").write_text(second)
    tokens = pack(options(source=str(tmp_path), sequence_length=8, tokens=10_000), encoder)
    joined = encoder.tokenizer.decode(sorted_stream(tokens.ids))
    parts = {first + "<|endoftext|>", second + "<|endoftext|>"}
    assert any(whole.startswith(joined) for whole in ("".join(sorted(parts)), "".join(sorted(parts, reverse=True))))
    assert "the text holds no more" in tokens.description and EOS in tokens.ids


def sorted_stream(ids):
    """The sequences in the order in which they were cut: each goes on where the one before ended."""
    from moecompress.calibration.pieces import seeded_order

    stream = np.empty_like(ids)
    stream[seeded_order(len(ids), "0/sequences")] = ids
    return stream.flatten().tolist()


def test_a_long_document_is_sampled_from_everywhere(encoder, tmp_path):
    (tmp_path / "a.txt").write_text(numbered(20_000))
    tokens = pack(options(source=str(tmp_path / "a.txt"), tokens=2048), encoder)
    text = encoder.tokenizer.decode(tokens.ids.flatten().tolist())
    numbers = [int(word) for word in text.split() if word.isdigit() and len(word) == 5]
    assert min(numbers) < 13_000 and max(numbers) > 16_000


def test_sources_share_by_weight(encoder, tmp_path):
    (tmp_path / "a.txt").write_text("aaaa\n" * 2000)
    (tmp_path / "b.txt").write_text("bbbb\n" * 2000)
    sources = [{"path": str(tmp_path / "a.txt"), "weight": 3}, {"path": str(tmp_path / "b.txt"), "weight": 1}]
    ids = pack(
        CalibrationOptions.model_validate({"tokens": 512, "sequence_length": 64, "sources": sources}), encoder
    ).ids
    letters = [encoder.tokenizer.decode(row.tolist()).count("b") > 0 for row in ids]
    assert sum(letters) == 2 and len(letters) == 8


def test_chat_rows_use_the_models_template(encoder, tmp_path):
    path = tmp_path / "chat.jsonl"
    row = {"messages": [{"role": "user", "content": "the thing"}, {"role": "assistant", "content": "yes " * 30}]}
    path.write_text(json.dumps(row) + "\n")
    tokens = pack(options(source=str(path), tokens=64), encoder)
    assert encoder.tokenizer.decode(tokens.ids[0].tolist()).startswith(
        "<|im_start|>user\nthe thing<|im_end|>\n<|im_start|>"
    )


def test_chat_without_a_template(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) + "\n")
    assert "has none" in refusal(TextEncoder(tokenizer), source=str(path))


def test_text_shorter_than_a_sequence(encoder, tmp_path):
    (tmp_path / "a.txt").write_text("short")
    message = refusal(encoder, source=str(tmp_path / "a.txt"))
    assert "less than one sequence of 64" in message and "lower calibration.sequence_length" in message


def test_rows_without_text(encoder, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    assert "has 0 tokens" in refusal(encoder, source=str(tmp_path / "a.jsonl"))


def test_sequences_longer_than_the_context(encoder):
    message = refusal(encoder, sequence_length=1024, tokens=1024)
    assert "sequence_length is 1024, but the model's context is 512" in message


def test_a_tokenizer_of_another_model(encoder):
    with pytest.raises(CalibrationError, match=r"vocabulary has 50 entries.*belongs to another model"):
        TextEncoder(encoder.tokenizer, vocabulary=50).encode(["zebra"])


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(CalibrationError, match=r"tokenizer of .* could not be loaded"):
        TextEncoder.open(tmp_path, {})


def test_windows_are_in_reading_order_and_do_not_overlap(folder, encoder, tmp_path):
    text = numbered(6000)
    (tmp_path / "a.txt").write_text(text)
    windows = evaluation_windows([tmp_path / "a.txt"], folder, 128)
    stream = np.concatenate(windows)
    assert text.startswith(encoder.tokenizer.decode(stream.tolist()))
    assert len(encoder.encode([text])[0]) - len(stream) < 128 + 8
    limited = evaluation_windows([tmp_path / "a.txt"], folder, 128, 3)
    assert len(limited) == 3 and all(np.array_equal(a, b) for a, b in zip(limited, windows, strict=False))


def test_the_limit_is_shared_and_handed_on(folder, tmp_path):
    (tmp_path / "a.txt").write_text("aaaa\n" * 40)
    (tmp_path / "b.txt").write_text("bbbb\n" * 400)
    windows = evaluation_windows([tmp_path / "a.txt", tmp_path / "b.txt"], folder, 64, 10)
    assert len(windows) == 10
    alone = len(evaluation_windows([tmp_path / "a.txt"], folder, 64))
    assert 0 < alone < 5
    more = evaluation_windows([tmp_path / "b.txt", tmp_path / "b.txt"], folder, 64, 10)
    assert np.array_equal(more[0], more[5])


def test_builtin_windows_are_held_out_text(folder, encoder):
    windows = evaluation_windows([], folder, 256, 4)
    assert [len(window) for window in windows] == [256] * 4
    assert all(np.array_equal(a, b) for a, b in zip(windows, evaluation_windows([], folder, 256, 4), strict=True))
    calibration = {row.tobytes() for row in pack(options(tokens=65536, sequence_length=256), encoder).ids}
    assert not calibration & {window.tobytes() for window in windows}


def test_windows_refuse_short_text_and_long_windows(folder, tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(CalibrationError, match="shorter than one window of 64"):
        evaluation_windows([tmp_path / "a.txt"], folder, 64)
    with pytest.raises(CalibrationError, match="window is 1024, but the model's context is 512"):
        evaluation_windows([tmp_path / "a.txt"], folder, 1024)
