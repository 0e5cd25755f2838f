"""A line of JSON says the same whether msgspec is installed or not, read by itself or with its neighbours."""

import io
import json
import random
from typing import Any

import pytest

from corpus import json_lines
from corpus.json_lines import json_row, json_texts, json_texts_at_once

needs_msgspec = pytest.mark.skipif(json_lines.msgspec is None, reason="msgspec is not installed")
LONG = b"1" * 5000
ODD = [
    b'{"text": "a", "n": 123456789012345678901234567890}', b'{"text": "a", "n": 1e400}', b'{"text": NaN}',
    b'{"text": "a", "x": [123456789012345678901234567890]}', b'{"text": "\\ud800"}', b'{"text": "\\ud83d\\ude00"}',
    b'{"text": "a\nb"}', b'{"text": "\x00"}', b'{"text": "\\u0000"}', b'{"text": "a"} ', b'\t{"text": "a"}',
    b'{"text": "a", "text": "b"}', b'{"text": "\xff"}', b'{"text": "\xed\xa0\x80"}', b'\xef\xbb\xbf{"text": "a"}',
    b"[" * 2000, b'{"a":' * 2000, b'["a"]', b"17", b'"a"', b"null", b"", b"  ", b"{", b'{"text": -0}',
    b'{"text": 1.0}', b'{"text": 0.1e1, "b": true}', b'{"text": -9223372036854775809}', b"{'text': 'a'}",
    b'{"text": "a",}', b'{"text": 01}', b'{"text": +1}', b'{"text": .5}', b'{"text": Infinity}', b'{"text": "\\x41"}',
    b'{"text": "a", "n": ' + LONG + b"}", b'{"text": "a", "x": "\xff"}', b'{"text": "a", "\xc0\x80": 1}',
    b'{"text": "a", "x": "\\ud800"}', b'{"text": "a", "x": "\\q"}', b'{"text": "a", "x": "\x01"}',
    b'{"\\u0074ext": "a"}', b'{"text": "a", "x": {"text": "b"}}', b'{"text": "a"} {"text": "b"}', b'{"text":',
    b'"a"}', b'{"text": "a"}{}', b'{}{"text": "a"}', b'{"text": "a", "x": [1 2]}', b'{"text": "a", "x": tru}',
]  # fmt: skip


def lines_of(chance: random.Random, number: int, broken: float) -> list[bytes]:
    """broken: the share of lines in which a byte is another one, or that are odd."""
    lines = []
    for _ in range(number):
        record = {
            "text": "".join(chance.choices('ab"\\\n\t\u2028é漢🤗/\x7f', k=9)),
            "n": chance.choice([1, 2**63, 0.5, None, {"a": ["é", "\\"]}]),
        }
        line = bytearray(json.dumps(record, ensure_ascii=chance.random() < 0.5).encode())
        if chance.random() < broken:
            line[chance.randrange(len(line))] = chance.choice([*b'{}[]",:\\ \r0e-\xff\xc3u', chance.randrange(256)])
        lines.append(bytes(line) if chance.random() < 1 - broken / 2 else chance.choice(ODD))
    return [line.replace(b"\n", b" ") for line in lines]


@needs_msgspec
def test_a_row_is_the_same_without_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ODD + lines_of(random.Random(0), 5000, 0.5)
    with_it = [repr(json_row(line)) for line in lines]
    monkeypatch.setattr(json_lines, "msgspec", None)
    assert with_it == [repr(json_row(line)) for line in lines]


def test_a_number_that_python_makes_no_int_of_is_no_reason_to_refuse_its_line() -> None:
    row = json_row(b'{"text": "a", "n": ' + LONG + b"}")
    assert row is not None and row.record == {"text": "a", "n": float("inf")}


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


@needs_msgspec
def test_lines_say_the_same_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few at a time, with at most one that is odd, so that much of what is odd is not hidden by something else."""
    chance = random.Random(1)
    at_once = 0
    for odd in [*ODD, *lines_of(chance, 20_000, 1.0)]:
        lines = lines_of(chance, 2, 0.0)
        lines.insert(chance.randrange(3), odd.replace(b"\n", chance.choice([b" ", b"\n"])))
        block = b"".join(line + b"\n" for line in lines)
        block = chance.choice([block, block, block, block[:-1], block.replace(b"\n", b"\r\n")])
        found = json_texts_at_once(memoryview(block), ["text"], 1000)
        if found is not None:
            at_once += 1
            assert found == json_texts(io.BytesIO(block).readlines(), ["text"]), block
            with monkeypatch.context() as without:
                without.setattr(json_lines, "msgspec", None)
                rows = [json_row(line) for line in block.split(b"\n")[:-1]]
            assert found == [[text_or_none((row.record or {}).get("text")) for row in rows if row]], block
    assert 1000 < at_once < 15_000


@needs_msgspec
def test_lines_that_only_seem_to_be_an_object_each() -> None:
    fine = b'{"text": "a"}\n'
    assert json_texts_at_once(memoryview(fine * 3), ["text"], 13) == [["a"] * 3]
    assert json_texts_at_once(memoryview(fine * 3), ["text"], 12) is None
    for block in (
        b"", b"\n", fine + b"\n", b"\n" + fine, fine[:-1], b" " + fine, b'{"text": "a"} \n', b'{"text": "a"}\r\n',
        b'{"text": "a"} {"text": "b"}\n', fine + b'{"text": "b"} {"text": "c"}\n\n', b'{"text":\n"a"}\n',
        b'{"text": "a", "x": {}\n}\n{"text": "b"} {"text": "c"}\n', b'[{"text": "a"}\n]\n', b'{"text": null}\n',
        b'{"other": "a"}\n', b'{"text": "\\ud800"}\n', b'{"text": "a", "x": "\xff"}\n',
    ):  # fmt: skip
        assert json_texts_at_once(memoryview(block), ["text"], 1000) is None, block
    assert json_texts_at_once(memoryview(fine), ['quo"ted'], 1000) is None
    both = b'{"text": "a", "more": "b"}\n'
    assert json_texts_at_once(memoryview(both), ["more", "text", "more"], 1000) == [["b"], ["a"], ["b"]]
