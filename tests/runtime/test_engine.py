"""Requests: what is refused before anything runs, what ends a text, and what a failure leaves behind."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from moecompress.core.errors import RequestError, UsageError
from moecompress.runtime.engine import Engine

PROMPT = "the inner part of the story"


def test_pieces_make_up_the_text_and_figures_are_told(engine):
    generation = engine.generate(PROMPT, max_tokens=20)
    pieces = list(generation)
    result = generation.result
    assert "".join(pieces) == result.text == engine.tokenizer.decode(result.token_ids)
    assert result.finish_reason in ("stop", "length")
    assert result.completion_tokens == len(result.token_ids) <= 20
    assert result.peak_rss_bytes > 0 and result.budget_bytes == engine.plan.budget
    store = result.store
    lookups = 2 * 2 * (result.completion_tokens - 1)  # layers and top-k for every decoded token
    assert store.decode_hits + store.decode_misses == lookups
    assert store.reads == store.prefill_misses + store.decode_misses
    assert store.bytes_read == store.reads * engine.manifest.experts[0].experts[0].bytes
    plain = result.as_dict()
    assert plain["hit_rate"] == store.decode_hits / lookups and plain["token_ids"] == list(result.token_ids)


def test_greedy_text_is_the_same_again_and_sampled_text_follows_the_seed(engine):
    greedy = [engine.generate(PROMPT, max_tokens=12).run().token_ids for _ in range(2)]
    sampled = [engine.generate(PROMPT, max_tokens=12, temperature=1.0, seed=seed).run() for seed in (1, 1, 2)]
    assert greedy[0] == greedy[1]
    assert sampled[0].token_ids == sampled[1].token_ids != sampled[2].token_ids


def test_a_stop_string_ends_the_text_before_it(engine):
    full = engine.generate(PROMPT, max_tokens=20).run().text
    stop = full[4:7]
    generation = engine.generate(PROMPT, max_tokens=20, stop=[stop])
    pieces = list(generation)
    assert generation.result.finish_reason == "stop"
    assert "".join(pieces) == generation.result.text == full[: full.index(stop)]


def test_an_end_of_text_token_ends_the_text(artifact, monkeypatch):
    with Engine.open(artifact, threads=1) as engine:
        tokens = engine.generate(PROMPT, max_tokens=8).run().token_ids
        monkeypatch.setattr(engine.tokenizer, "end_ids", frozenset(tokens[3:4]))
        result = engine.generate(PROMPT, max_tokens=8).run()
    end = tokens.index(tokens[3])
    assert result.finish_reason == "stop" and result.token_ids == tokens[: end + 1]
    assert result.text == engine_text(artifact, tokens[:end])


def engine_text(artifact: Path, tokens: tuple[int, ...]) -> str:
    with Engine.open(artifact, threads=1) as engine:
        return engine.tokenizer.decode(tokens)


def test_a_full_context_ends_the_text(artifact):
    with Engine.open(artifact, threads=1, context=16) as engine:
        result = engine.generate(list(range(14)), max_tokens=50).run()
        assert result.finish_reason == "length" and result.completion_tokens == 3
        assert engine.generate(list(range(16)), max_tokens=50).run().completion_tokens == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": list(range(129))}, "129 tokens, but the context is 128"),
        ({"prompt": []}, "empty"),
        ({"prompt": ""}, "empty"),
        ({"prompt": [1, 304]}, "304 lies outside the vocabulary"),
        ({"prompt": [-1]}, "-1 lies outside"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_k": -1}, "top_k = -1"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(engine, options, words):
    engine.logits([5, 6, 7])
    before = engine.store_stats()
    with pytest.raises(RequestError, match=words.replace("(", r"\(")):
        engine.generate(**{"prompt": PROMPT, **options})
    assert engine.store_stats() == before


def test_a_file_cut_while_open_fails_the_request_and_not_the_engine(artifact_copy):
    file = artifact_copy / "experts-00001.safetensors"
    content = file.read_bytes()
    ids = list(range(100, 160))
    with Engine.open(artifact_copy, threads=1, slots=2) as engine:
        expected = engine.logits(ids)
        os.truncate(file, 4096 * 3 + 17)
        with pytest.raises(RequestError, match=r"experts-00001\.safetensors ends at byte"):
            engine.logits(ids)
        with pytest.raises(RequestError, match="too early"):
            engine.generate(ids, max_tokens=4).run()
        file.write_bytes(content)
        np.testing.assert_array_equal(engine.logits(ids), expected)


def test_a_record_of_another_expert_fails_the_request(artifact_copy):
    ids = list(range(100, 160))
    with Engine.open(artifact_copy, threads=1, slots=2) as engine:
        first, second = engine.manifest.experts[0].experts[:2]
        file = artifact_copy / engine.manifest.experts[0].file
        content = bytearray(file.read_bytes())
        content[first.offset : first.offset + 64] = content[second.offset : second.offset + 64]
        file.write_bytes(content)
        with pytest.raises(RequestError, match=r"expert 0 of layer 0 .* wrong header"):
            engine.logits(ids)


@pytest.mark.parametrize("phase", ["prompt", "text"])
def test_cancel_ends_a_request_and_the_engine_goes_on(artifact, phase):
    with Engine.open(artifact, threads=1, slots=2, chunk=1) as engine:
        expected = engine.logits(range(20))
        generation = engine.generate(list(range(200)) if phase == "prompt" else [1], max_tokens=300)
        if phase == "prompt":
            timer = threading.Timer(0.005, generation.cancel)
            timer.start()
            result = generation.run()
            timer.join()
        else:
            for _ in zip(range(3), generation, strict=False):
                pass
            generation.cancel()
            result = None
        if result is not None:
            assert result.finish_reason == "cancelled" and len(result.token_ids) < 300
        np.testing.assert_array_equal(engine.logits(range(20)), expected)


def test_cancel_before_the_start_and_between_tokens(engine):
    generation = engine.generate(PROMPT, max_tokens=10)
    generation.cancel()
    assert generation.run().finish_reason == "cancelled"
    generation = engine.generate(PROMPT, max_tokens=100)
    pieces = iter(generation)
    next(pieces)
    engine.cancel()
    rest = list(pieces)
    assert generation.result.finish_reason == "cancelled" and len(rest) <= 2
    assert engine.generate(PROMPT, max_tokens=4).run().finish_reason in ("length", "stop")


def test_a_signal_reaches_python_while_the_core_computes(artifact):
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    ids = [token % 299 for token in range(512)]
    with Engine.open(artifact, threads=1, slots=2, chunk=1) as engine:
        expected = engine.logits(ids[:20])
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            with pytest.raises(KeyboardInterrupt):
                engine.start(ids)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert engine.store_stats().reads < 2 * 2 * len(ids)
        np.testing.assert_array_equal(engine.logits(ids[:20]), expected)


def test_two_texts_may_take_turns(engine):
    expected = [engine.generate(prompt, max_tokens=10).run().text for prompt in (PROMPT, "another")]
    first, second = engine.generate(PROMPT, max_tokens=10), engine.generate("another", max_tokens=10)
    pieces: tuple[list[str], list[str]] = ([], [])
    streams = (iter(first), iter(second))
    for turn in range(30):
        pieces[turn % 2].append(next(streams[turn % 2], ""))
    assert ["".join(part) for part in pieces] == expected


def test_results_and_iteration_come_once(engine):
    generation = engine.generate(PROMPT, max_tokens=2)
    with pytest.raises(RequestError, match="not finished"):
        _ = generation.result
    generation.run()
    with pytest.raises(RequestError, match="once"):
        iter(generation)


def test_a_chat_goes_through_the_template(engine):
    ids = engine.tokenizer.chat([{"role": "user", "content": "the thing"}])
    text = "<|im_start|>user\nthe thing<|im_end|>\n<|im_start|>assistant\n"
    assert ids == engine.tokenizer.encode(text, special=False)
    assert engine.generate(ids, max_tokens=2).run().prompt_tokens == len(ids)


def test_without_a_tokenizer_ids_still_work(tmp_path):
    from moecompress.testing.native import build_artifact, tiny_model

    folder = build_artifact(tmp_path, tiny_model("mixtral"), tokenizer=False)
    with Engine.open(folder, threads=1) as engine:
        assert engine.generate([1, 2], max_tokens=3).run().completion_tokens == 3
        with pytest.raises(RequestError, match="no tokenizer"):
            engine.generate("text")


def test_a_closed_engine_says_so(artifact):
    engine = Engine.open(artifact, threads=1)
    engine.close()
    engine.cancel()
    with pytest.raises(UsageError, match="closed"):
        engine.generate([1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context": 513}, "context of 513"),
        ({"threads": 0}, "threads = 0"),
        ({"slots": 1}, "slots = 1"),
        ({"slots": 17}, "between 2 and 16"),
        ({"memory": "lots"}, "not a size"),
    ],
)
def test_bad_options_are_refused(artifact, options, words):
    with pytest.raises(UsageError, match=words):
        Engine.open(artifact, **options)


def test_a_mistyped_name_is_refused_with_the_nearest(artifact):
    with pytest.raises(UsageError, match="Did you mean 'buffered'"):
        Engine.open(artifact, io="bufered")


@pytest.mark.parametrize("options", [{"policy": "oracle"}, {"isa": "sse9"}, {"io": "psychic"}])
def test_unknown_names_are_refused_with_the_known_ones(artifact, options):
    name, value = next(iter(options.items()))
    with pytest.raises(UsageError, match=f"{name} = '{value}' is not possible.*Allowed"):
        Engine.open(artifact, slots=4, **options)
