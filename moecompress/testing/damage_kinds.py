"""The kinds of damage to an artifact: each changes a draft in place; `damaged` chooses among them by a seed."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from moecompress.artifact.container import PAGE, build_header
from moecompress.artifact.manifest import MANIFEST
from moecompress.artifact.records import HEADER
from moecompress.testing.damage import NUMBERS, OTHERS, Draft, hostile, some_place

_HEADER_FIELDS = (("<4s", 0), ("<H", 4), ("<H", 6), ("<I", 8), ("<I", 12), ("<Q", 16), ("<I", 24))
_SETTINGS = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
_SNIPPETS = (
    "{{ messages.__class__ }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}",
    "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}", "{{ 'a' * 9999999999 }}",
    "{{ 9**9**9 }}", "{{ '%9999999999d' % 1 }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ 1 / 0 }}",
    "{% include 'manifest.json' %}", "{% import 'os' as os %}", "{{ lipsum(n=1000000) }}", "{{ undefined.x }}",
    "{{ raise_exception('no') }}", "{{ strftime_now('%Y') }}", "{% for %}", "{{", "{% set x = namespace(y=1) %}",
    "{{ ''.center(9999999999) }}", "{{ '{:9999999999}'.format(1) }}", "{{ 'x' | center(9999999999) }}",
    "\x00", "{{ cycler }}",
)  # fmt: skip


def number(draft: Draft, generator: Random) -> None:
    """A number or text of the manifest becomes another one."""
    place = some_place(draft.plain, generator, leaf=True)
    if place is not None:
        container, key = place
        container[key] = hostile(container[key], generator)


def config(draft: Draft, generator: Random) -> None:
    """The same within config.json, on which the forward pass depends."""
    architecture = draft.plain.get("architecture")
    values = architecture.get("config") if isinstance(architecture, dict) else None
    if not isinstance(values, dict):
        return
    place = some_place(values, generator, leaf=True)
    if place is not None:
        container, key = place
        container[key] = hostile(container[key], generator)
    if generator.random() < 0.2:
        added = (
            "rope_parameters",
            "rope_scaling",
            "layer_types",
            "sliding_window",
            "head_dim",
            "clip_qkv",
            "mlp_only_layers",
        )
        values[generator.choice(added)] = copy.deepcopy(generator.choice(NUMBERS + OTHERS))


def value(draft: Draft, generator: Random) -> None:
    """A value of the manifest becomes something of another type, or a copy of another value."""
    place = some_place(draft.plain, generator)
    other = some_place(draft.plain, generator)
    if place is not None and other is not None:
        taken = other[0][other[1]] if generator.random() < 0.6 else generator.choice(OTHERS)
        place[0][place[1]] = copy.deepcopy(taken)


def key(draft: Draft, generator: Random) -> None:
    """A key of the manifest goes, comes, changes its name, or is there twice."""
    _change_key(draft, draft.plain, generator)


def nesting(draft: Draft, generator: Random) -> None:
    """A value of the manifest lies many brackets deep."""
    place = some_place(draft.plain, generator)
    if place is not None:
        depth = generator.choice([2, 60, 64, 65, 200, 1000, 100_000])
        left, right = generator.choice([("[", "]"), ('{"a":', "}")])
        _put_text(draft, place, left * depth + "1" + right * depth)


def manifest_bytes(draft: Draft, generator: Random) -> None:
    """The manifest's own bytes are changed, cut or lengthened."""
    draft.own_manifest = True
    draft.files[MANIFEST] = _mangled(draft.files[MANIFEST], generator)


def bits(draft: Draft, generator: Random) -> None:
    """Some bits of one file flip."""
    name = _file(draft, generator)
    data = bytearray(draft.files[name])
    for _ in range(generator.choice([1, 1, 2, 8]) if data else 0):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    draft.files[name] = bytes(data)


def length(draft: Draft, generator: Random) -> None:
    """A file ends at a page, or beside one, or goes on behind its end."""
    name = _file(draft, generator)
    data = draft.files[name]
    end = PAGE * generator.randrange(len(data) // PAGE + 3) + generator.choice([-1, 0, 0, 1])
    end = generator.choice([end, len(data) - 1, len(data) + 1, len(data) // 2])
    draft.files[name] = data[: max(0, end)].ljust(max(0, end), b"\0")


def exchange(draft: Draft, generator: Random) -> None:
    """Two files change places."""
    one, other = _file(draft, generator), _file(draft, generator)
    draft.files[one], draft.files[other] = draft.files[other], draft.files[one]


def odd_file(draft: Draft, generator: Random) -> None:
    """Something else stands where a file should, or beside the files."""
    name = generator.choice([*sorted(draft.files), "extra.json", "extra.pkl"])
    draft.odd[name] = generator.choice(["missing", "link", "fifo", "folder"])


def record_header(draft: Draft, generator: Random) -> None:
    """A field of an expert's record header takes another value."""
    name, start = _record(draft, generator)
    form, place = generator.choice(_HEADER_FIELDS)
    data = bytearray(draft.files[name])
    size = struct.calcsize(form)
    numbers = [entry % 256**size for entry in NUMBERS if type(entry) is int]
    data[start + place : start + place + size] = generator.choice(numbers).to_bytes(size, "little")
    draft.files[name] = bytes(data)


def record_copy(draft: Draft, generator: Random) -> None:
    """A record, or only its header, lies where another should."""
    (source, taken), (target, start) = _record(draft, generator), _record(draft, generator)
    size = generator.choice([HEADER.size, PAGE, 2 * PAGE])
    piece = draft.files[source][taken : taken + size]
    data = draft.files[target]
    draft.files[target] = data[:start] + piece + data[start + len(piece) :]


def safetensors_header(draft: Draft, generator: Random) -> None:
    """The header of a weight file says something else, or says that it is longer or shorter."""
    name = generator.choice([name for name in sorted(draft.files) if name.endswith(".safetensors")])
    data = draft.files[name]
    size = int.from_bytes(data[:8], "little")
    if generator.random() < 0.4:
        numbers = [entry for entry in NUMBERS if type(entry) is int and 0 <= entry < 2**64]
        changed = generator.choice([*numbers, size - 1, size + PAGE, size - PAGE, len(data)])
        draft.files[name] = (changed % 2**64).to_bytes(8, "little") + data[8:]
        return
    entries = json.loads(data[8 : 8 + size])
    place = some_place(entries, generator, leaf=True)
    if place is not None:
        place[0][place[1]] = hostile(place[0][place[1]], generator)
    text = json.dumps(entries).encode()
    padded = len(build_header([("", 0)])) if len(text) < size else size + PAGE
    room = max(size, -(-(8 + len(text)) // padded) * padded - 8)
    draft.files[name] = room.to_bytes(8, "little") + text.ljust(room) + data[8 + size :]


def tokenizer(draft: Draft, generator: Random) -> None:
    """tokenizer.json, by its structure or its bytes."""
    draft.files["tokenizer.json"] = _changed_json(draft.files["tokenizer.json"], generator)


def settings(draft: Draft, generator: Random) -> None:
    """One of the small files beside the tokenizer."""
    name = generator.choice([name for name in _SETTINGS if name in draft.files])
    plain = json.loads(draft.files[name])
    if generator.random() < 0.5:
        added = ("chat_template", "eos_token", "bos_token", "eos_token_id", "add_bos_token")
        odd: tuple[Any, ...] = (
            [{"name": [], "template": 1}],
            [{"name": "default", "template": "{{"}],
            {"content": 1},
            [1, "a"],
        )
        plain[generator.choice(added)] = copy.deepcopy(generator.choice(NUMBERS + OTHERS + odd))
        draft.files[name] = _encoded(plain)
    else:
        draft.files[name] = _changed_json(draft.files[name], generator)


def template(draft: Draft, generator: Random) -> None:
    """The chat template, by hostile pieces or its bytes."""
    name = "chat_template.jinja"
    data = draft.files[name]
    if generator.random() < 0.3:
        draft.files[name] = _mangled(data, generator)
        return
    place = generator.choice([0, len(data), generator.randrange(len(data) + 1)])
    draft.files[name] = data[:place] + generator.choice(_SNIPPETS).encode() + data[place:]


KINDS: dict[str, Callable[[Draft, Random], None]] = {
    kind.__name__: kind
    for kind in (
        number, config, value, key, nesting, manifest_bytes, bits, length, exchange, odd_file, record_header,
        record_copy, safetensors_header, tokenizer, settings, template,
    )
}  # fmt: skip


_IN_TABLES = ("number", "config", "value", "key")
_TWICE = 0.1  # share of drafts with a second damage, to the manifest
_UNSEALED = 0.15  # share of drafts whose hashes are left as they are


def damaged(files: Mapping[str, bytes], tables: Any, generator: Random) -> tuple[str, Draft]:
    """The name of a kind of damage, and a draft that has suffered it. `tables` is the sound manifest's plain value."""
    draft = Draft.of(files, tables)
    kind = generator.choice(list(KINDS))
    draft.sealed = generator.random() >= _UNSEALED
    KINDS[kind](draft, generator)
    if generator.random() < _TWICE:
        KINDS[generator.choice(_IN_TABLES)](draft, generator)
    draft.seal()
    return kind, draft


def _file(draft: Draft, generator: Random) -> str:
    return generator.choice([name for name in sorted(draft.files) if name != MANIFEST])


def _record(draft: Draft, generator: Random) -> tuple[str, int]:
    """The file and offset of a record, by the sound table."""
    layer = generator.choice(draft.tables["experts"])
    return layer["file"], generator.choice(layer["experts"])["offset"]


def _change_key(draft: Draft, plain: Any, generator: Random) -> None:
    place = some_place(plain, generator)
    if place is None or not isinstance(place[0], dict):
        return
    container, name = place
    match generator.randrange(4):
        case 0:
            del container[name]
        case 1:
            container[generator.choice(["x", "", "offset", "\ud800", "a" * 600])] = copy.deepcopy(container[name])
        case 2:
            container[name + generator.choice(["x", " ", "\n"])] = container.pop(name)
        case _:
            draft.texts['"@twice"'] = json.dumps(name)
            container["@twice"] = copy.deepcopy(container[name])


def _put_text(draft: Draft, place: tuple[Any, Any], text: str) -> None:
    """A JSON text that no Python value gives, in place of a value."""
    place[0][place[1]] = "@text"
    draft.texts['"@text"'] = text


def _changed_json(data: bytes, generator: Random) -> bytes:
    if generator.random() < 0.2:
        return _mangled(data, generator)
    plain = json.loads(data)
    place = some_place(plain, generator, leaf=generator.random() < 0.7)
    if place is None:
        return data
    container, name = place
    if isinstance(container, dict) and generator.random() < 0.2:
        del container[name]
    else:
        container[name] = hostile(container[name], generator)
    return _encoded(plain)


def _encoded(plain: Any) -> bytes:
    return json.dumps(plain).encode()


def _mangled(data: bytes, generator: Random) -> bytes:
    """Bytes with some of them flipped, cut off, doubled or made random."""
    if not data:
        return b"\xff"
    start, size = generator.randrange(len(data)), generator.choice([1, 2, 16, 256])
    match generator.randrange(5):
        case 0:
            changed = bytearray(data)
            for _ in range(generator.choice([1, 2, 8])):
                changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            return bytes(changed)
        case 1:
            return data[:start]
        case 2:
            return data[:start] + data[start : start + size] + data[start:]
        case 3:
            return data[:start] + data[start + size :]
        case _:
            return data[:start] + generator.randbytes(size) + data[start + size :]
