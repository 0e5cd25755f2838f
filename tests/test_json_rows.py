"""A line of JSON gives the same row whether orjson is installed or not."""

import json
import random

import pytest

from corpus import reading
from corpus.reading import json_row

needs_orjson = pytest.mark.skipif(reading.orjson is None, reason="orjson is not installed")
ODD = [
    b'{"text": "a", "n": 123456789012345678901234567890}', b'{"text": "a", "n": 1e400}', b'{"text": NaN}',
    b'{"text": "a", "x": [123456789012345678901234567890]}', b'{"text": "\\ud800"}', b'{"text": "\\ud83d\\ude00"}',
    b'{"text": "a\nb"}', b'{"text": "\x00"}', b'{"text": "\\u0000"}', b'{"text": "a"} ', b'\t{"text": "a"}',
    b'{"text": "a", "text": "b"}', b'{"text": "\xff"}', b'{"text": "\xed\xa0\x80"}', b'\xef\xbb\xbf{"text": "a"}',
    b"[" * 2000, b'{"a":' * 2000, b'["a"]', b"17", b'"a"', b"null", b"", b"  ", b"{", b'{"text": -0}',
    b'{"text": 1.0}', b'{"text": 0.1e1, "b": true}', b'{"text": -9223372036854775809}', b"{'text': 'a'}",
    b'{"text": "a",}', b'{"text": 01}', b'{"text": +1}', b'{"text": .5}', b'{"text": Infinity}', b'{"text": "\\x41"}',
]  # fmt: skip


@needs_orjson
def test_a_row_is_the_same_without_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    lines = list(ODD)
    for _ in range(3000):
        record = {
            "text": "".join(chance.choices('ab"\\\n\t\u2028é漢🤗/\x7f', k=9)),
            "n": chance.choice([1, 2**63, 0.5, None]),
        }
        line = bytearray(json.dumps(record, ensure_ascii=chance.random() < 0.5).encode())
        if chance.random() < 0.5:
            line[chance.randrange(len(line))] = chance.randrange(256)
        lines.append(bytes(line))
    with_it = [repr(json_row(line)) for line in lines]
    monkeypatch.setattr(reading, "orjson", None)
    assert with_it == [repr(json_row(line)) for line in lines]
