"""A line of JSON says the same whether msgspec is installed or not."""

import json
import random

import pytest

from corpus import json_lines
from corpus.json_lines import json_row

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
