"""Many lines, read at once by compiled code, say what each says by itself; what is in doubt is left to Python."""

import random

import pytest
from test_json_rows import ODD, lines_of

from corpus import json_lines, lines
from corpus.json_lines import json_row
from corpus.reading import Lines, text_row, without_end
from utils.compiled import why_not

pytestmark = pytest.mark.skipif(why_not(lines.SOURCE) is not None, reason=str(why_not(lines.SOURCE)))


@pytest.fixture(autouse=True)
def by_json_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "msgspec", None)


def read(block: bytes, name: str | None = "text", longest: int = 100_000) -> list[str | None]:
    """What each line says; None for one that is left to Python."""
    found = Lines(block, 0, len(block), longest)
    texts, is_odd = lines.texts_of(found.together, found.number, longest, name)  # type: ignore[misc]
    assert len(is_odd) == len(texts) == found.number
    return [None if odd else text for text, odd in zip(texts.strings, is_odd.tolist(), strict=True)]


def text_of(line: bytes, name: str = "text") -> str | None:
    """By `json`: the text of a field, if there is one that is text and no half of UTF-16."""
    row = json_row(without_end(line))
    value = (row.record or {}).get(name) if row else None
    is_text = isinstance(value, str) and not any("\ud800" <= letter < "\ue000" for letter in value)
    return value if is_text else None  # type: ignore[return-value]


def test_lines_of_json() -> None:
    chance = random.Random(0)
    left = said = 0
    for number in range(3000):
        broken = chance.choice([0.0, 0.5])
        block = b"".join(line + chance.choice([b"\n", b"\n", b"\r\n"]) for line in lines_of(chance, 12, broken))
        block = block if number % 3 else block[: chance.randrange(len(block))]
        for found, value in zip(read(block), map(text_of, _split(block)), strict=True):
            assert found in (None, value), block
            left += found is None and value is not None
            said += found is not None
    assert said > 20_000 and left < said / 100  # what `json` reads and this does not is rare


def _split(block: bytes) -> list[bytes]:
    """A block at its newlines alone."""
    parts = block.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def test_odd_lines() -> None:
    """By itself and between others: none says anything else than `json` finds, and none moves its neighbours."""
    fine = b'{"text": "fine"}'
    for line in ODD:
        if b"\n" in line:
            continue
        for block in (line, line + b"\n", fine + b"\n" + line + b"\n" + fine):
            assert all(
                found in (None, text_of(each)) for found, each in zip(read(block), _split(block), strict=True)
            ), block
        assert read(fine + b"\n" + line + b"\n" + fine)[::2] == ["fine", "fine"]
    assert read(b"") == []


BORDERS = "\U0010ffff\ud7ff\ue000\u0800\u07ff\x7f"
READ = [
    (rb'{"text": "\\ \/ \" \b\f\n\r\t \u00e9 \u6f22 \ud83e\udD17 \u0000"}', '\\ / " \b\f\n\r\t é 漢 🤗 \x00'),
    (rb'{"\u0074ext": "by an escaped name"}', "by an escaped name"),
    (b'{"text": "first", "text": "last"}', "last"),
    (b'{"a": {"text": "inner"}, "text": "outer", "b": [{"text": "inner"}]}', "outer"),
    (b' \t{ "text" :\t"spaces" , "x" : [ ] , "y" : { } } \r', "spaces"),
    (b'{"x": [NaN, -Infinity, -0.5e-7, 0, true, false, null, 1E+5], "text": "values"}', "values"),
    (b'{"text": ""}', ""),
    (b'{"text": "' + b"seven by" * 9 + b'"}', "seven by" * 9),
    (f'{{"x": "é漢🤗", "text": "{BORDERS}"}}'.encode(), BORDERS),
]


@pytest.mark.parametrize("line, said", READ)
def test_what_is_read(line: bytes, said: str) -> None:
    assert read(line) == [said] == [text_of(line)]


LEFT = [
    b'{"text": 1}', b'{"text": null}', b'{"other": "a"}', b'{"text": "a"', b'{"text": "a"}}', b'{"text": "a",}',
    b'{"text": "a" "b": 1}', b'{"text": "a", "n": 01}', b'{"text": "a", "n": 1.}', b'{"text": "a", "n": .5}',
    b'{"text": "a", "n": 1e}', b'{"text": "a", "n": +1}', b'{"text": "a", "n": -}', b'{"text": "a", "n": }',
    b'{"text": "a", "x": tru}', b'{"text": "a", "x": nul}', b'{"text": "a", "x": [1,]}', b'{"text": "a", "x": [1 2]}',
    b'{"text": "a", "x": {"y"}}', b'{"text": "a", "x": {y: 1}}', b'{"text": "a", "x": "\x1f"}',
    b'{"text": "\xc0\x80"}', b'{"text": "a", "x": "\xed\xa0\x80"}', b'{"text": "\xf4\x90\x80\x80"}',
    b'{"text": "\xe0\x80\x80"}', b'{"text": "\xe6"}', b'{"text": "\xf5\x80\x80\x80"}', b'{"text": "\xf0\x80\x80\x80"}',
    rb'{"text": "\ud800"}', rb'{"text": "\udc00\ud800"}', rb'{"text": "\ud800\u0041"}', rb'{"text": "\u12g4"}',
    rb'{"text": "\u12"}', rb'{"text": "\x"}', b'{"text": "\\', b'{"text": "', b"{", b"", b" ", b"[]", b'"text"',
    b'\xef\xbb\xbf{"text": "a"}', b"[" * 9000, b'{"text": "a", "x": ' + b"[" * 9000 + b"]" * 9000 + b"}",
    b'{"text": "a"}\x00', b'{"text"; "a"}', b'{"text": "a"; "b": 1}', b'{, "text": "a"}', b"{}",
]  # fmt: skip


@pytest.mark.parametrize("line", LEFT)
def test_what_is_left_to_python(line: bytes) -> None:
    assert read(line + b'\n{"text": "next"}') == [None, "next"]


def test_other_names() -> None:
    line = '{"é": "a", "quo\\"ted": "b", "": "c", "tex": "d", "texts": "e"}'.encode()
    for name, said in {"é": "a", 'quo"ted': "b", "": "c", "tex": "d", "text": None, "\ud800": None}.items():
        assert read(line, name) == [said]


def test_long_lines() -> None:
    block = b'{"text": "a"}\n{"text": "ab"}\r\n{"text": "abc"}'
    assert read(block, longest=14) == ["a", "ab", None]
    assert read(b"ab\nabc\r\nabcd\n", None, longest=3) == ["ab", "abc", None]


def test_lines_of_text() -> None:
    chance = random.Random(0)
    letters = ["a", " ", "é", "漢", "🤗", "\x00", "\r", "\u2028", "a plain line of some length "]
    for _ in range(3000):
        parts = [chance.choice(letters).encode() for _ in range(chance.randrange(30))]
        parts = [chance.choice([part, part, part, b"\n", b"\r\n"]) for part in parts]
        block = bytearray(b"".join(parts))
        if block and chance.random() < 0.5:
            block[chance.randrange(len(block))] = chance.randrange(256)
        rows = [text_row(without_end(line)) for line in _split(bytes(block))]
        assert read(bytes(block), None) == [None if row.record is None else row.record["text"] for row in rows]


def test_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    blocks = [bytes(chance.choices(b"\n\n\rab", k=chance.randrange(900))) for _ in range(300)] + [b"", b"\n" * 999]
    expected = [len(_split(block)) for block in blocks]
    assert [lines.number_of_lines(memoryview(block)) for block in blocks] == expected
    monkeypatch.setattr(lines, "compiled", lambda source: None)
    assert [lines.number_of_lines(memoryview(block)) for block in blocks] == expected


def test_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "compiled", lambda source: None)
    assert lines.texts_of(memoryview(b"a"), 1, 9, None) is None
