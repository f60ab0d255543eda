"""The tokenizer files of an artifact, and chat templates in their sandbox."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moecompress.core.errors import ArtifactError, RequestError
from moecompress.runtime.template import render
from moecompress.runtime.tokenizer import Tokenizer, TokenizerFiles, parse_json
from moecompress.testing.tiny import write_tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = (folder / "chat_template.jinja").read_text()

    def make(**changes: Any) -> TokenizerFiles:
        plain = {"tokenizer": (folder / "tokenizer.json").read_bytes(), "settings": settings, "template": template}
        return TokenizerFiles(**{**plain, **changes})

    return make


def test_text_survives_the_round_trip(files):
    tokenizer = Tokenizer(files())
    for text in ("plain words", "tabs\tand\nlines", "größe, 日本語, 🙂"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_stream_of_many_byte_characters_is_never_torn(files):
    tokenizer = Tokenizer(files())
    text = "the 🙂 of 日本 and é"
    prompt = tokenizer.encode("in")
    stream = tokenizer.stream(prompt)
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces) and "" in pieces


def test_end_tokens_come_from_the_generation_config_first(files):
    end = {256}  # <|endoftext|>, the tokenizer's own
    assert Tokenizer(files()).end_ids == end
    assert Tokenizer(files(config={"eos_token_id": 5})).end_ids == end | {5}
    both = files(config={"eos_token_id": 5}, generation={"eos_token_id": [6, 7]})
    assert Tokenizer(both).end_ids == end | {6, 7}


def test_a_beginning_token_is_added_when_the_settings_ask_for_it(files):
    settings = {"add_bos_token": True, "bos_token": {"content": "<|im_start|>"}}
    tokenizer = Tokenizer(files(settings=settings))
    assert tokenizer.encode("the") == [257, *Tokenizer(files()).encode("the")]
    assert tokenizer.encode("<|im_start|>the") == [257, *Tokenizer(files()).encode("the")]
    assert tokenizer.encode("the", special=False) == Tokenizer(files()).encode("the")


def test_a_conversation_is_rendered_as_transformers_renders_it(files, tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    messages = [{"role": "system", "content": "é"}, {"role": "user", "content": "a\nb"}]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for answer in (True, False):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=answer, tokenize=False)
        assert Tokenizer(files()).render(messages, answer=answer) == expected


def test_a_template_in_the_settings_counts_too(files):
    listed = [
        {"name": ["default"]},
        {"name": "tool_use", "template": "x"},
        {"name": "default", "template": "{{ eos_token }}!"},
    ]
    for template in ("{{ eos_token }}!", listed):
        settings = {"eos_token": "<|endoftext|>", "chat_template": template}
        assert Tokenizer(files(settings=settings, template=None)).render([]) == "<|endoftext|>!"


def test_without_a_template_a_conversation_is_refused(files):
    with pytest.raises(RequestError, match="no chat template"):
        Tokenizer(files(template=None)).render([])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception('only user and assistant may speak') }}",
        "{% for x in %}",
        "{{ 1 / 0 }}",
        "{{ messages[0]['role']['x'].y }}",
        "{{ {}.popitem() }}",
    ],
)
def test_a_template_can_neither_reach_out_nor_fail_with_a_traceback(template):
    with pytest.raises(RequestError, match="chat template refused"):
        render(template, {"messages": [{"role": "user"}]})


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for a in range(999) %}{% for b in range(999) %}{% endfor %}{% endfor %}", "more than 100000 steps"),
        ("{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}", "steps"),
        ("{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "elements"),
        ("{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}", "elements"),
        ("{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}", "4096 bits"),
        ("{{ 'ab' * 99999999 }}", "199999998 elements"),
        ("{{ [1] * 99999999 }}", "99999999 elements"),
        ("{{ 9 ** 99999999 }}", "power"),
        ("{{ '%99999999d' % 1 }}", "width"),
        ("{{ '%*d' | format(99999999, 1) }}", "99999999 as a size|width"),
        ("{{ '{:99999999}'.format(1) }}", "width"),
        ("{{ '{:{}}'.format(1, 99999999) }}", "99999999 as a size"),
        ("{{ ''.center(99999999) }}", "99999999 as a size"),
        ("{{ '' | center(99999999) }}", "99999999 as a size"),
        ("{{ [1] | batch(99999999, 0) | list }}", "99999999 as a size"),
        ("{{ messages | tojson(indent=99999999) }}", "99999999 as a size"),
        ("{{ lipsum(n=9999) }}", "undefined"),
    ],
)
def test_a_template_that_does_too_much_is_refused(template, words):
    with pytest.raises(RequestError, match=words):
        render(template, {"messages": [{"role": "user"}]})


def test_loops_of_templates_know_where_they_are():
    text = "{% for a in 'xyz' %}{{ loop.index }}{{ a ~ '/' ~ loop.length }}{{ ',' if not loop.last }}{% endfor %}"
    assert render(text, {}) == "1x/3,2y/3,3z/3"
    assert render("{% for k, v in d.items() if v %}{{ k }}{% else %}none{% endfor %}", {"d": {"a": 1, "b": 0}}) == "a"
    assert render("{% for a in nothing %}{% else %}none{% endfor %}{{ 'a' + 'b' * 2 }}{{ '%s' % 7 }}", {}) == "noneabb7"


def test_helpers_of_templates():
    text = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
    assert render(text, {"messages": [{"a": "é<"}, {"b": 1}]}) == '{"a": "é<"}'
    assert len(render("{{ strftime_now('%Y') }}", {})) == 4


def test_broken_files_are_named(files):
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Tokenizer(files(tokenizer=b"{}"))
    with pytest.raises(ArtifactError, match="not JSON"):
        parse_json(b"{", "tokenizer_config.json")
    with pytest.raises(ArtifactError, match="must hold a JSON object"):
        parse_json(b"[]", "tokenizer_config.json")
