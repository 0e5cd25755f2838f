"""A unit read at once, by columns, gives what its rows give one by one: the same documents, the same bad rows."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from corpus import inputs, json_lines, reading
from corpus.documents import Reader
from corpus.encoding import Documents
from corpus.inputs import FileSource, Source
from corpus.lines import SOURCE
from corpus.shards import Skipped
from corpus.sources import sources
from corpus.splitting import place_of, places_from
from corpus.tasks import find, gathered, read_lines, read_unit, tasks
from utils.compiled import why_not

TEXTS = ["plain", "über", "漢字 🤗", "", " ", "\u2003\n", "x" * 90, "ü" * 60, "a\x00b", "line\n", "\u0085"]
VALUES = [*TEXTS, None, 3, 0.5, True, ["a"], {"inner": "b"}, 2**70, -0.0]
LINES = ["", "  ", "{", "[1]", "17", '"text"', "null", '{"text": "\\ud800"}', '{"other": "a"}', "\ufeff{}", "\x00" * 9]


def config_of(path: Path, kind: str, longest: int = 100, **dataset: Any) -> Config:
    given = {"source": "files", "path": str(path), "kind": kind, "text_unit": "line", **dataset}
    return Config(dataset=given, tokenize={"max_document_bytes": longest})


def simply(documents: Documents, skipped: list[Skipped], empty: np.ndarray) -> tuple[Any, ...]:
    fields = {name: values.strings for name, values in documents.fields.items() if len(values)}
    return list(documents.addresses), fields, list(documents.n_bytes), skipped, empty.tolist()


def check(config: Config, is_cut: bool = False) -> int:
    """-> how many units were read at once"""
    (source,) = sources(config) if is_cut else [one_split(config)]
    reader = Reader(config)
    at_once = 0
    for unit in range(source.units):
        names = reader.fields.columns
        block = None if names is None else source.block(unit, names)
        at_once += block is not None
        for since in (0, inputs.address_of(unit, 2)):
            splits = dict.fromkeys(source.shares, since)
            read, digest = read_unit(source, unit, reader, splits)
            expected = gathered(find(source, unit, reader, splits))
            assert digest == source.digest(unit)
            assert {split: simply(*one) for split, one in read.items()} == {
                split: simply(*one) for split, one in expected.items()
            }
    return at_once


def one_split(config: Config) -> Source:
    path = Path(str(config.dataset.path))
    return FileSource({"train": (0.0, 1.0)}, [[path]], "line", config.tokenize.max_document_bytes, config.dataset.kind)


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "UNIT_BYTES", 512)


def write_lines(path: Path, chance: random.Random, names: tuple[str, ...]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        for i in range(600):
            # Half are plain, many in a row, so that units of them are read without a look at their rows.
            if i // 50 % 2:
                file.write(json.dumps({name: chance.choice(TEXTS) for name in (*names, "more")}) + "\n")
                continue
            values = TEXTS[:3] if chance.random() < 0.7 else VALUES
            record = {name: chance.choice(values) for name in (*names, "more") if chance.random() < 0.97}
            line = json.dumps(record, ensure_ascii=chance.random() < 0.5)
            file.write((line if chance.random() < 0.9 else chance.choice(LINES)) + chance.choice(["\n", "\r\n"]))


KINDS = {
    "text": ("text", {}),
    "pairs": ("pairs", {}),
    "prompt_response": ("prompt_response", {}),
    "other names": ("pairs", {"fields": {"source": "target", "target": "more"}}),
    "one field twice": ("pairs", {"fields": {"source": "more", "target": "more"}}),
    "part of a field": ("text", {"fields": {"text": "more.inner"}}),
    "template": ("text", {"fields": {"text": "{text} {more}"}}),
}


@pytest.fixture(params=["compiled", "by msgspec", "by json"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads lines that follow one another."""
    if request.param == "compiled" and why_not(SOURCE):
        pytest.skip(str(why_not(SOURCE)))
    if request.param != "compiled":
        for name in ("corpus.lines.compiled", "corpus.measuring.compiled"):
            monkeypatch.setattr(name, lambda source: None)
    if request.param == "by json":
        monkeypatch.setattr(json_lines, "msgspec", None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("case", KINDS)
def test_lines_of_json(tmp_path: Path, case: str) -> None:
    kind, dataset = KINDS[case]
    names = {"text": ("text",), "pairs": ("source", "target"), "prompt_response": ("prompt", "response")}[kind]
    path = tmp_path / "a.jsonl"
    write_lines(path, random.Random(case), names)
    assert check(config_of(path, kind, **dataset)) > 10 or case == "template"
    fractions = {"train": 0.7, "validation": 0.2, "test": 0.1}
    assert check(config_of(path, kind, **dataset, fractions=fractions), is_cut=True) > 10 or case == "template"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("longest", [100, 800])  # a unit of lines is more than the first, and hardly ever the second
@pytest.mark.parametrize("plain", [0.0, 1.0, 0.98])
@pytest.mark.parametrize("last", [b"", b"\n", b"the last", b"the last\n"])
def test_lines_of_text(tmp_path: Path, longest: int, plain: float, last: bytes) -> None:
    path = tmp_path / "a.txt"
    chance = random.Random(0)
    lines = [text.replace("\n", "").encode() for text in TEXTS]
    odd = [b"\xff\n", b"\xe6\xbc\n", b"y" * (longest + 1) + b"\n", b"a line\r\n", b"\r\n", b"\r"]

    def line() -> bytes:
        return chance.choice(lines) + b"\n" if chance.random() < plain else chance.choice(odd)

    path.write_bytes(b"".join(line() for _ in range(400)) + last)
    assert check(config_of(path, "text", longest)) > 10
    assert check(config_of(path, "text", longest, fields={"text": "none"})) > 10


def check_streamed(config: Config, path: Path) -> None:
    """A compressed file, taken apart by other processes, gives what its rows give one by one."""
    (source,) = sources(config)
    reader = Reader(config)
    with gzip.open(path) as file:
        content = file.read().removeprefix(b"\xef\xbb\xbf")
    plain = path.with_suffix("")
    plain.write_bytes(content)
    kind, longest = config.dataset.kind, config.tokenize.max_document_bytes
    expected = list(FileSource({"train": (0.0, 1.0)}, [[plain]], "line", longest, kind).rows(0))
    assert [(number, *row[1:]) for number, row in source.rows(0)] == [(number, *row[1:]) for number, row in expected]
    assert source.where(0, 17) == f"{path}:18"
    check_taken_apart(source, reader)


def check_taken_apart(source: Source, reader: Reader) -> None:
    for since in (0, 40, 10**6):
        done = dict.fromkeys(source.shares, since)
        todo = list(tasks(source, 0, range(1), reader, done))
        assert todo[-1].ended == (0,) and not any(task.rows for task in todo)
        parts = [read_lines(source, *task.lines, reader, done) for task in todo[:-1] if task.lines is not None]
        assert len(parts) == len(todo) - 1 and (since or len(parts) > 10)
        whole = gathered(find(source, 0, reader, done))
        assert set(whole) == {split for part in parts for split in part}
        for split, read in whole.items():
            of_split = [simply(*part[split]) for part in parts if split in part]
            addresses, fields, n_bytes, skipped, empty = simply(*read)
            for value, place in ((addresses, 0), (n_bytes, 2), (skipped, 3), (empty, 4)):
                assert value == [one for part in of_split for one in part[place]]
            assert fields == {name: [one for part in of_split for one in part[1].get(name, [])] for name in fields}


@pytest.mark.parametrize("longest", [100, 800])
@pytest.mark.parametrize("last", [b"", b"\n", b"the last", b"z" * 900, b"z" * 900 + b"\n"])
def test_compressed_lines(tmp_path: Path, longest: int, last: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "STREAM_BYTES", 300)
    monkeypatch.setattr(inputs, "UNIT_BYTES", 1 << 20)
    chance = random.Random(2)
    cut = {"text_unit": "line", "fractions": {"train": 0.7, "validation": 0.2, "test": 0.1}}
    path = tmp_path / "a.txt.gz"
    lines = [b"", b" ", b"plain", "über".encode(), b"\xff", b"y" * longest, b"y" * (longest + 1), b"y" * (longest + 2),
             b"y" * 3 * longest, b"\x00"]  # fmt: skip
    content = b"".join(chance.choice(lines) + chance.choice([b"\n", b"\n", b"\r\n"]) for _ in range(300)) + last
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + content))
    check_streamed(config_of(path, "text", longest, **cut), path)
    write_lines(tmp_path / "b.jsonl", chance, ("text",))
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(gzip.compress((tmp_path / "b.jsonl").read_bytes() + last))
    check_streamed(config_of(path, "text", longest, **cut), path)


def paragraphs_of(content: bytes, longest: int) -> list[tuple[int, str]]:
    """(line, from 1, that it begins with; its text, or why there is none) of each paragraph of a file."""
    found: list[tuple[int, list[bytes]]] = []
    is_open = False
    for number, line in enumerate(content.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        is_blank = not line.strip() and len(line) <= longest
        if not is_blank and not is_open:
            found.append((number, []))
        is_open = not is_blank
        if is_open:
            found[-1][1].append(line)
    said = []
    for number, lines in found:
        text = b"\n".join(lines)
        try:
            said.append((number, "too long" if len(text) > longest else text.decode()))
        except UnicodeDecodeError as problem:
            said.append((number + text[: problem.start].count(b"\n"), "not UTF-8"))
    return said


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
@pytest.mark.parametrize("longest", [100, 700])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n", b"\nthe last", b"z" * 1700, b"z" * 1700 + b"\n"])
def test_paragraphs(tmp_path: Path, ending: str, longest: int, last: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STREAM_BYTES": 300, "LINE_BYTES": 50}.items():
        monkeypatch.setattr(reading, name, value)
    chance = random.Random(f"{longest} {last!r}")
    lines = [b"plain", "über".encode(), b" a ", b"x\r", b"\xff", b"y" * longest, b"y" * (longest + 1), b"\x00", b"\x1c"]
    blanks = [*[b"", b"", b" ", b"\t\x0b\x0c", b"\r"] * 9, b" " * longest, b" " * (longest + 1)]
    content = b""
    for _ in range(400):
        share = chance.choice([0.1, 0.5, 0.9])
        several = [chance.choice(lines[:4] if chance.random() < 0.9 else lines) for _ in range(chance.randrange(1, 9))]
        several = [line if chance.random() < share else chance.choice(blanks) for line in several]
        content += b"".join(line + chance.choice([b"\n", b"\n", b"\r\n"]) for line in several)
    content += b"a\n" * 2 * longest + last  # one that is long because it has many lines
    path = tmp_path / f"a{ending}"
    raw = b"\xef\xbb\xbf" + content
    path.write_bytes(gzip.compress(raw) if ending == ".txt.gz" else raw)
    fractions = {"train": 0.7, "validation": 0.2, "test": 0.1}
    config = config_of(path, "text", longest, text_unit="paragraph", fractions=fractions)
    (source,) = sources(config)
    expected = paragraphs_of(content, longest)
    rows = list(source.rows(0))
    assert [number for number, _ in rows] == list(range(len(expected)))
    said = [(int(row.where.rpartition(":")[2]), row.reason or row.record["text"]) for _, row in rows]  # type: ignore[index]
    assert said == expected
    assert {row.reason for _, row in rows} == {"", "too long", "not UTF-8"}
    check_taken_apart(source, Reader(config))
    asked = range(0, len(rows), 41)
    assert [source.where(0, number) for number in asked] == [f"{path}:{expected[number][0]}" for number in asked]


def test_a_long_paragraph_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\n\n" + b"x\n" * 9_000_000 + b"\nlast")
    blocks = list(reading.streamed_paragraphs(path, 1000))
    assert [found for block in blocks for found in block.each] == [b"first", None, b"last"]
    assert max(len(block.data) for block in blocks) <= 2 * reading.STREAM_BYTES
    places = [row.where.rpartition(":")[2] for row in reading.rows_of(path, "paragraph", 1000)]
    assert places == ["1", "3", "9000004"]


@pytest.mark.usefixtures("way")
def test_files_that_are_a_text_each(tmp_path: Path) -> None:
    chance = random.Random(0)
    for i in range(60):
        text = chance.choice(TEXTS).encode() + chance.choice([b"", b"\xff", b"\r\n", b"y" * 90, b"\xef\xbb\xbf"])
        raw = chance.choice([b"", b"\xef\xbb\xbf"]) + text
        (tmp_path / f"{i}.txt").write_bytes(raw)
        (tmp_path / f"{i}.txt.gz").write_bytes(gzip.compress(raw))
    as_short = b"one they they was when we in it when there for the or but that this what"
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(as_short, mtime=0))
    assert (tmp_path / "a.txt.gz").stat().st_size == len(as_short)  # and yet the hash is of what is in the file
    files = [[path] for path in sorted(tmp_path.iterdir())]
    for kind in ("text", "pairs"):
        config = config_of(tmp_path, kind, text_unit="file")
        source = FileSource({"train": (0.0, 1.0)}, files, "file", 100, kind)
        reader = Reader(config)
        assert source.units > 5
        for unit in range(source.units):
            read, digest = read_unit(source, unit, reader, {"train": 0})
            assert digest == source.digest(unit)
            expected = gathered(find(source, unit, reader, {"train": 0}))
            assert {split: simply(*one) for split, one in read.items()} == {
                split: simply(*one) for split, one in expected.items()
            }


def test_a_long_line_of_a_compressed_file_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"first\n" + b"x" * 30_000_000 + b"\nlast")
    blocks = list(reading.streamed_lines(path, 1000))
    assert [line for lines in blocks for line in lines.each] == [b"first", None, b"last"]
    assert max(len(lines.data) for lines in blocks) <= reading.STREAM_BYTES + 1010


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("odd", [False, True])
def test_tables(tmp_path: Path, form: str, odd: bool) -> None:
    import pyarrow
    import pyarrow.parquet

    chance = random.Random(0)
    texts = TEXTS + [None] if odd else TEXTS
    column = pyarrow.array([chance.choice(texts) for _ in range(200)], pyarrow.large_string() if odd else None)
    table = pyarrow.table({"text": column, "n": range(200), "text.n": ["part"] * 200})
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=30)
    else:
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=17)
    assert check(config_of(path, "text")) > 5
    assert check(config_of(path, "pairs", fields={"source": "text", "target": "text"})) > 5
    assert check(config_of(path, "text", fractions={"train": 0.5, "validation": 0.5}), is_cut=True) > 5
    for name in ("n", "none", "text.n"):  # no text, not there, perhaps a part of another
        assert check(config_of(path, "text", fields={"text": name})) == 0


def test_text_of_a_table_that_is_not_utf_8(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([b"good", b"\xff", b"good too"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "a.parquet")
    assert check(config_of(tmp_path / "a.parquet", "text")) == 0


def one_by_one(number: int, stratum: int) -> list[float]:
    """The places of the documents 100 * number, …, in plain Python."""
    chance = random.Random(f"liftoff split {number}" + (f" of {stratum}" if stratum else ""))

    def order() -> list[int]:
        return sorted(range(10), key=lambda _: chance.random())

    places = [0.0] * 100
    within = [order() for _ in range(10)]
    for ten in range(10):
        for i, tenth in enumerate(order()):
            places[10 * ten + i] = (tenth + (within[tenth][ten] + chance.random()) / 10) / 10
    return places


def test_places_of_many_rows_are_those_of_each() -> None:
    for first, number, stratum in ((0, 0, 0), (0, 1, 3), (99, 2, 0), (150, 470, 7), (200, 100, 1), (10**12, 300, 0)):
        expected = [one_by_one(i // 100, stratum)[i % 100] for i in range(first, first + number)]
        assert places_from(first, number, stratum).tolist() == expected
        assert [place_of(i, stratum) for i in range(first, first + number)] == expected
