"""Traces: what is recorded is what the model chose; files are read back, and anything else is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moecompress.artifact.container import Form, typed_header
from moecompress.core import values
from moecompress.core.errors import ArtifactError, BudgetError, RequestError, UsageError
from moecompress.runtime.engine import Engine
from moecompress.runtime.recording import aside_bytes, read_texts, record_trace
from moecompress.runtime.trace import FORMAT, Sequence, TraceHeader, new_trace, read_trace
from moecompress.testing.policy_checks import random_routing

IDS = np.random.default_rng(1).integers(0, 299, 40).tolist()


@pytest.fixture
def texts(tmp_path):
    paths = [tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "three.txt"]
    for index, path in enumerate(paths):
        path.write_text("the inner part of the story " * (1 + 9 * index))
    return paths


def header(tokens=9, experts=(5, 4), guesses=3):
    return TraceHeader(
        artifact_hash="ab" * 32,
        model_type="mixtral",
        top_k=2,
        guesses=guesses,
        layers=tuple(range(len(experts))),
        experts=tuple(experts),
        sequences=(Sequence(name="a", tokens=tokens - 3), Sequence(name="b", tokens=3)),
    )


def arrays(described):
    """Random tensors that fit a header."""
    chosen = random_routing(described.experts, described.top_k, described.tokens, seed=0)
    forms = described.forms()
    guesses = np.zeros(forms["guesses"].shape, np.uint16)
    sizes = np.where(np.arange(max(described.experts)) < np.array(described.experts)[:, None], 4096, 0)
    return {"chosen": chosen, "weights": np.full(chosen.shape, 0.5, np.float16), "guesses": guesses} | {
        "record_bytes": sizes.astype(np.int64)
    }


def write(path, described=None, metadata=None, **changes):
    """A trace made by hand, so that it can be wrong."""
    described = described or header()
    tensors = {**arrays(described), **changes}
    names = {"uint16": "U16", "float16": "F16", "int64": "I64", "float32": "F32"}
    forms = [(name, Form(names[str(array.dtype)], array.shape)) for name, array in tensors.items()]
    words = {**FORMAT, "header": json.dumps(values.plain(described)), **(metadata or {})}
    path.write_bytes(typed_header(forms, words) + b"".join(array.tobytes() for array in tensors.values()))
    return path


def test_recorded_experts_are_those_of_the_model(encoded):
    import torch

    artifact, model = encoded()
    ids = 7 * IDS
    with Engine.open(artifact, threads=1, chunk=16) as engine:
        parts = list(engine.routing(ids, guesses=4))
        assert [len(part[0]) for part in parts] == [engine.plan.chunk, len(ids) - engine.plan.chunk]
    chosen, weights, guesses = (np.concatenate(part) for part in zip(*parts, strict=True))
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), output_router_logits=True).router_logits
    for layer, of_layer in enumerate(logits):
        best = of_layer.float().softmax(-1).topk(2, dim=-1)
        assert chosen[:, layer].tolist() == best.indices.tolist()
        np.testing.assert_allclose(weights[:, layer], best.values / best.values.sum(-1, keepdim=True), atol=1e-3)
    assert (guesses[:, 0] == 0xFFFF).all()
    assert [len(set(row)) for row in guesses[:, 1].tolist()] == [4] * len(ids)


def test_a_guess_is_the_next_router_on_the_input_of_this_layer(encoded):
    import torch

    artifact, model = encoded()
    inputs = []
    gate = model.model.layers[0].mlp.gate
    handle = gate.register_forward_pre_hook(lambda _, args: inputs.append(args[0].reshape(-1, args[0].shape[-1])))
    with torch.inference_mode():
        model(torch.tensor([IDS]))
        ahead = inputs[0] @ model.model.layers[1].mlp.gate.weight.T
    handle.remove()
    with Engine.open(artifact, threads=1) as engine:
        (_, _, guesses), *_ = engine.routing(IDS, guesses=3)
    assert guesses[:, 1].tolist() == ahead.topk(3, dim=-1).indices.tolist()


def test_recording_does_not_depend_on_chunk_or_cache(artifact):
    recorded = []
    for options in ({"chunk": 40}, {"chunk": 7, "slots": 4}, {"chunk": 1, "slots": 2}):
        with Engine.open(artifact, threads=1, **options) as engine:
            list(engine.routing(IDS[:5]))  # what is in the key-value cache is not taken for this text
            parts = zip(*engine.routing(IDS, guesses=2), strict=True)
            recorded.append([np.concatenate(part).tobytes() for part in parts])
    assert recorded[0] == recorded[1] == recorded[2]


def test_an_engine_records_and_generates_in_turn(artifact):
    with Engine.open(artifact, threads=1) as engine:
        before = engine.generate(IDS, max_tokens=5).run().token_ids
        first = [part[0].tobytes() for part in engine.routing(IDS)]
        assert engine.generate(IDS, max_tokens=5).run().token_ids == before
        assert [part[0].tobytes() for part in engine.routing(IDS)] == first
        with pytest.raises(RequestError, match="empty"):
            next(engine.routing([]))


def test_texts_share_the_tokens_and_long_ones_are_begun_anew(artifact, texts, tmp_path):
    with Engine.open(artifact, threads=1, context=32) as engine:
        parts = read_texts(engine, texts, 100)
        counts = [len(text.ids) for text in parts]
        assert sum(counts) == 100 and counts[0] < 33 < counts[2]
        described = record_trace(engine, parts, tmp_path / "out.trace")
        windows = [text.ids[i : i + 32] for text in parts for i in range(0, len(text.ids), 32)]
        expected = [np.concatenate([part[0] for part in engine.routing(window)]) for window in windows]
    trace = read_trace(tmp_path / "out.trace")
    assert trace.header == described
    assert [(s.name, s.tokens) for s in described.sequences][:2] == [("one.txt", counts[0]), ("two.txt", 32)]
    np.testing.assert_array_equal(trace.chosen, np.concatenate(expected))
    assert trace.record_bytes.tolist() == [[e.bytes for e in layer.experts] for layer in engine_layers(artifact)]


def engine_layers(artifact):
    with Engine.open(artifact, threads=1) as engine:
        return engine.manifest.experts


def test_texts_that_cannot_be_read_are_named(artifact, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with Engine.open(artifact, threads=1) as engine:
        for name, words in (("no.txt", "No such file"), ("binary.txt", "utf-8"), ("empty.txt", "no text")):
            with pytest.raises(UsageError, match=words):
                read_texts(engine, [tmp_path / name], None)


def test_what_the_texts_take_is_part_of_the_budget(artifact, texts):
    assert aside_bytes(texts, None) > aside_bytes(texts, 10) > 0
    with Engine.open(artifact, threads=1) as engine:
        planned = engine.plan
    with pytest.raises(BudgetError):
        Engine.open(artifact, memory=planned.budget, threads=1, aside=planned.budget)


def test_a_trace_is_read_back(tmp_path):
    described = header()
    tensors = arrays(described)
    with new_trace(tmp_path / "x.trace", described, tensors["record_bytes"]) as writer:
        for first in range(0, described.tokens, 4):
            part = slice(first, first + 4)
            writer.append(
                tensors["chosen"][part], tensors["weights"][part].astype(np.float32), tensors["guesses"][part]
            )
    trace = read_trace(tmp_path / "x.trace")
    assert trace.header == described
    for name, array in tensors.items():
        np.testing.assert_array_equal(getattr(trace, name), array)
    assert read_trace(write(tmp_path / "y.trace")).header == described
    assert {path.name for path in tmp_path.iterdir()} == {"x.trace", "y.trace"}


def test_a_trace_that_lacks_tokens_is_not_written(tmp_path):
    described = header()
    tensors = arrays(described)
    with pytest.raises(ValueError, match="were appended"):
        with new_trace(tmp_path / "x.trace", described, tensors["record_bytes"]) as writer:
            writer.append(tensors["chosen"][:4], tensors["weights"][:4].astype(np.float32), tensors["guesses"][:4])
    assert not list(tmp_path.iterdir())


def test_the_safetensors_library_reads_it(tmp_path):
    numpy_io = pytest.importorskip("safetensors.numpy")
    loaded = numpy_io.load_file(write(tmp_path / "x.trace"))
    assert loaded["chosen"].dtype == np.uint16 and loaded["chosen"].shape == (9, 2, 2)


def replaced(name, place, value):
    array = arrays(header())[name].copy()
    array[place] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (replaced("chosen", (3, 1, 0), 4), "chose an expert that its layer does not have"),
        (replaced("chosen", (3, 1), 2), "chose an expert twice"),
        (replaced("weights", (0, 0, 0), np.inf), "weight is not finite"),
        (replaced("record_bytes", (1, 4), 4096), "record_bytes must be positive"),
        (replaced("record_bytes", (0, 0), 0), "record_bytes must be positive"),
        ({"chosen": np.zeros((9, 2, 3), np.uint16)}, "tensor 'chosen' is Form"),
        ({"weights": np.zeros((9, 2, 2), np.float32)}, "tensor 'weights' is Form.*F32"),
        ({"more": np.zeros(1, np.uint16)}, "tensor 'more'"),
        ({"metadata": {"format_version": "2"}}, "its metadata is"),
        ({"metadata": {"format": "moecompress"}}, "its metadata is"),
        ({"metadata": {"header": "{"}}, "not valid JSON"),
        ({"metadata": {"header": "{}"}}, "artifact_hash is missing"),
        ({"metadata": {"header": json.dumps({**values.plain(header()), "top_k": 0})}}, "top_k must lie between"),
        (
            {"metadata": {"header": json.dumps({**values.plain(header()), "top_k": "2"})}},
            "top_k must be a whole number",
        ),
        ({"metadata": {"header": json.dumps({**values.plain(header()), "experts": [1, 4]})}}, "layer of 1 experts"),
        ({"metadata": {"header": json.dumps({**values.plain(header()), "layers": []})}}, "0 layers and 2 numbers"),
        ({"metadata": {"header": json.dumps({**values.plain(header()), "sequences": []})}}, "the header needs"),
    ],
)
def test_malformed_traces_are_refused(tmp_path, changes, words):
    with pytest.raises(ArtifactError, match=words):
        read_trace(write(tmp_path / "x.trace", **changes))


@pytest.mark.parametrize("size", [0, 7, 4096, 5000])
def test_truncated_traces_are_refused(tmp_path, size):
    path = write(tmp_path / "x.trace")
    path.write_bytes(path.read_bytes()[:-1] if size == 5000 else path.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=str(path)):
        read_trace(path)


def test_a_missing_trace_and_a_link_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        read_trace(tmp_path / "x.trace")
    (tmp_path / "link").symlink_to(write(tmp_path / "y.trace"))
    with pytest.raises(ArtifactError, match="regular file"):
        read_trace(tmp_path / "link")
