"""Reading documents: every format, what is bad in them, splits, fields and fingerprints."""

import csv
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Config
from corpus.documents import BadDocuments, Document, input_fingerprint, read_documents
from corpus.fields import fill
from corpus.files import find
from corpus.reading import rows_of
from corpus.sources import has_split
from corpus.splitting import place_of
from utils.messages import UserError

TEXTS = ["one", "two\nlines", 'quotes " and, commas', "Ünïcödé 漢字 🤗", "  spaces  ", "sep\u2028arator\x0b"]


def config(tokenize: dict[str, Any] | None = None, **dataset: Any) -> Config:
    return Config(name="test", dataset={"source": "files", **dataset}, tokenize=tokenize or {})


def documents(given: Config, split: str = "train", bad: BadDocuments | None = None) -> list[Document]:
    return list(read_documents(given, split, on_bad=bad))


def texts(given: Config, split: str = "train", bad: BadDocuments | None = None) -> list[str]:
    return [document.fields["text"] for document in documents(given, split, bad)]


def write_formats(folder: Path) -> dict[str, Path]:
    """TEXTS in every format -> its paths."""
    import pyarrow
    import pyarrow.parquet
    import zstandard

    lines = "".join(
        json.dumps({"text": text, "n": i}, ensure_ascii=False) + "\n" for i, text in enumerate(TEXTS)
    ).encode()
    paths = {
        name: folder / name for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.csv", "e.parquet", "f.arrow", "g")
    }
    paths["a.jsonl"].write_bytes(lines)
    paths["b.jsonl.gz"].write_bytes(gzip.compress(lines))
    half = len(lines) // 2  # two frames, as tools that append write them
    compress = zstandard.ZstdCompressor().compress
    paths["c.jsonl.zst"].write_bytes(compress(lines[:half]) + compress(lines[half:]))
    with open(paths["d.csv"], "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["n", "text"], *enumerate(TEXTS)])
    table = pyarrow.table({"text": TEXTS})
    pyarrow.parquet.write_table(table, paths["e.parquet"], row_group_size=2)
    with pyarrow.OSFile(str(paths["f.arrow"]), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(paths["g"]), num_shards=2)
    return paths


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    for name, path in write_formats(tmp_path).items():
        assert texts(config(train_path=str(path))) == TEXTS, name


def test_tsv_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b'text\tn\n"a quotation mark\t1\r\nplain\t2\n')
    assert texts(config(train_path=str(tmp_path / "a.tsv"))) == ['"a quotation mark', "plain"]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("line", ["a ", " b", "c\u2028d"]), ("paragraph", ["a \n b", "c\u2028d"]), ("file", ["a \n b\n\n \nc\u2028d"])],
)
def test_units_of_text(tmp_path: Path, unit: str, expected: list[str]) -> None:
    content = "a \n b\n\n \nc\u2028d"
    for name, raw in {"lf": content.encode(), "crlf": b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode()}.items():
        path = tmp_path / f"{name}.txt"
        path.write_bytes(raw)
        assert texts(config(train_path=str(path), text_unit=unit)) == expected
    (tmp_path / "empty.txt").write_bytes(b"")
    assert texts(config(train_path=str(tmp_path), text_unit=unit)) == 2 * expected


def test_a_folder_and_a_pattern_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a.txt", "b/10.txt", ".hidden.txt", "c.unknown"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(config(train_path=str(tmp_path))) == ["a.txt", "b/10.txt", "b/2.txt"]
    assert texts(config(train_path=str(tmp_path / "**/*.txt"))) == ["a.txt", "b/10.txt", "b/2.txt"]
    assert texts(config(train_path=str(tmp_path / "c.unknown"))) == ["c.unknown"]
    with pytest.raises(UserError, match="no file .*nothing"):
        find(tmp_path / "nothing*")


def test_line_parallel_files(tmp_path: Path) -> None:
    (tmp_path / "x.en").write_bytes("one\u2028still one\r\n\r\nthree\r\n".encode())
    (tmp_path / "x.de").write_bytes(b"eins\nzwei\ndrei")
    given = config(kind="pairs", train_path=[str(tmp_path / "x.en"), str(tmp_path / "x.de")])
    bad = BadDocuments()
    found = [document.fields for document in documents(given, bad=bad)]
    assert found == [{"source": "one\u2028still one", "target": "eins"}, {"source": "three", "target": "drei"}]
    assert bad.empty == 1
    (tmp_path / "x.de").write_bytes(b"eins\nzwei\ndrei\nvier\n")
    with pytest.raises(UserError, match=r"x\.en has 3 lines, .*x\.de has 4"):
        documents(given)


BAD = {
    "not UTF-8": (b'{"text": "\xff"}', "byte 0xff"),
    "not JSON": (b'{"text": ', "Expecting"),
    "no such field": (b'{"txt": "a"}', "the record has txt"),
    "not text": (b'{"text": "\\ud800"}', "surrogate"),
    "too long": (b'{"text": "' + b"x" * 200 + b'"}', "200 bytes"),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_documents_are_counted_with_their_place(tmp_path: Path, reason: str) -> None:
    line, detail = BAD[reason]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": ""}\n{"text": "good"}\n')
    given = config(train_path=str(path), tokenize={"bad_documents": "skip", "max_document_bytes": 100})
    bad = BadDocuments("skip")
    assert texts(given, bad=bad) == ["good", "good"]
    assert dict(bad.counts) == {reason: 1} and bad.empty == 1
    assert f"x.jsonl:3: {reason}" in bad.places[reason][0] and detail in bad.places[reason][0]
    with pytest.raises(UserError, match=rf"x\.jsonl:3: {reason}.*bad_documents=skip"):
        texts(config(train_path=str(path), tokenize={"max_document_bytes": 100}))


def test_bad_rows_of_other_formats(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nb\xffad\n" + b"x" * 5000 + b"\nlast")
    rows = list(rows_of(tmp_path / "a.txt", "line", 1000))
    assert [(row.reason, row.record) for row in rows[1:]] == [
        ("not UTF-8", None),
        ("too long", None),
        ("", {"text": "last"}),
    ]
    whole = next(rows_of(tmp_path / "a.txt", "file", 100_000))
    assert (whole.where[-1], whole.reason) == ("2", "not UTF-8")
    assert [row.reason for row in rows_of(tmp_path / "a.txt", "paragraph", 1000)] == ["too long"]
    (tmp_path / "b.csv").write_bytes(b"text,n\ngood,1\nb\xffad,2\ntoo,many,cells\nlast,3\n")
    rows = list(rows_of(tmp_path / "b.csv", "file", 1000))
    assert [row.reason for row in rows] == ["", "not UTF-8", "not CSV", ""] and rows[3].where.endswith(":5")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(UserError, match=r"c\.jsonl\.gz is damaged"):
        list(rows_of(tmp_path / "c.jsonl.gz", "file", 1000))


def test_a_long_record_of_a_table_is_one_bad_row(tmp_path: Path) -> None:
    lines = "\n".join(f'line {i}, of ""many""' for i in range(8_000))
    path = tmp_path / "a.csv"
    for long in (lines, "x" * 200_000):
        path.write_text(f'text,n\n"one",1\n"{long}",2\n"two, ""too""",3\n')
        rows = list(rows_of(path, "file", 1000))
        assert [(row.reason, row.record and row.record["text"]) for row in rows] == [
            ("", "one"), ("too long", None), ("", 'two, "too"'),
        ]  # fmt: skip
        assert [row.where.rpartition(":")[2] for row in rows] == ["2", "3", str(4 + long.count("\n"))]
    path = tmp_path / "a.tsv"
    path.write_text(f'text\tn\n{"x" * 200_000}\t1\n"two\t2\n')
    assert [(row.reason, row.record) for row in rows_of(path, "file", 1000)] == [
        ("too long", None), ("", {"text": '"two', "n": "2"}),
    ]  # fmt: skip


def test_fields_and_templates(tmp_path: Path) -> None:
    record = {"instruction": "Add.", "input": None, "answer": {"text": "3", "score": 2}, "n": 7}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(record) + "\n")
    fields = {"prompt": r"{instruction}\n{input}{{{n}}}", "response": "answer.text"}
    found = documents(config(train_path=str(path), kind="prompt_response", fields=fields))
    assert found[0].fields == {"prompt": "Add.\n{7}", "response": "3"}
    with pytest.raises(UserError, match="has no 'promt'; did you mean 'prompt'"):
        documents(config(train_path=str(path), kind="prompt_response", fields={"promt": "n"}))
    with pytest.raises(UserError, match="template"):
        fill("{unclosed", record)


def test_messages_and_separators(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps({"chat": turns, "text": "q => a"}) + "\n")
    assert documents(config(train_path=str(path), kind="messages", fields={"messages": "chat"}))[0].fields == {
        "messages": turns
    }
    given = config(train_path=str(path), kind="prompt_response", tokenize={"separator": " => "})
    assert documents(given)[0].fields == {"text": "q => a"}


def test_a_path_is_cut_by_fractions(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("".join(f"line {i}\n" for i in range(1000)))
    fractions = {"train": 0.8, "validation": 0.15, "test": 0.05}
    given = config(path=str(path), text_unit="line", fractions=fractions)
    found = {split: texts(given, split) for split in fractions}
    assert {split: len(lines) for split, lines in found.items()} == {"train": 800, "validation": 150, "test": 50}
    assert sorted(sum(found.values(), [])) == sorted(f"line {i}" for i in range(1000))
    # More lines at the end change nothing about those before.
    path.write_text("".join(f"line {i}\n" for i in range(1500)))
    assert texts(given, "test")[:50] == found["test"]
    # A split with a path of its own is not cut from the others.
    own = config(path=str(path), test_path=str(path), text_unit="line", fractions=fractions)
    assert len(texts(own, "test")) == 1500 and len(texts(own)) + len(texts(own, "validation")) == 1500
    with pytest.raises(UserError, match="sum to 1"):
        texts(config(path=str(path), fractions={"train": 0.5}))


def test_places_are_even() -> None:
    places = [place_of(i) for i in range(5000)]
    for start in range(0, 5000, 100):
        assert sorted(int(place * 100) for place in places[start : start + 100]) == list(range(100))
    # In no residue class is the cut another: data that repeats itself is cut like any other.
    for period in (7, 10, 64, 100):
        shares = [sum(place < 0.5 for place in places[k::period]) / len(places[k::period]) for k in range(period)]
        assert 0.2 < min(shares) and max(shares) < 0.8


def test_caps_and_named_validation_sets(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("1234\n" * 100)
    given = config(
        train_path=str(path), validation_path={"a": str(path), "b": str(path)}, text_unit="line", max_documents=7
    )
    assert [len(texts(given, split)) for split in ("train", "a", "b", "test")] == [7, 7, 7, 0]
    assert [has_split(given, split) for split in ("train", "a", "validation", "test")] == [True, True, False, False]
    assert len(texts(config(train_path=str(path), text_unit="line", max_bytes=21))) == 5


def test_a_split_without_documents_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("one document")
    with pytest.raises(UserError, match="too few for dataset.fractions"):
        texts(config(path=str(tmp_path / "x.txt")), "validation")
    (tmp_path / "x.txt").write_text(" \n")
    with pytest.raises(UserError, match="0 are bad and 1 empty"):
        texts(config(train_path=str(tmp_path / "x.txt")))


def some_documents(split: str, count: int = 2) -> Iterator[Any]:
    """A source of documents, as a user writes it."""
    for i in range(count):
        yield f"{split} {i}" if i % 2 else {"text": f"{split} {i}"}


def test_a_function_is_a_source() -> None:
    given = Config(dataset={"source": "tests.test_documents.some_documents", "arguments": {"count": 3}})
    assert texts(given, "validation") == ["validation 0", "validation 1", "validation 2"]
    with pytest.raises(UserError, match="takes no 'cuont'; did you mean 'count'"):
        texts(Config(dataset={"source": "tests.test_documents.some_documents", "arguments": {"cuont": 3}}))


@pytest.mark.parametrize("kind", ["text", "prompt_response", "messages", "pairs"])
def test_synthetic_documents(kind: str) -> None:
    given = Config(dataset={"source": "synthetic", "kind": kind, "arguments": {"documents": 20}})
    train, again, test = documents(given), documents(given), documents(given, "test")
    assert len(train) == 20 and train == again and train[0].fields != test[0].fields


def test_the_fingerprint_knows_the_bytes_and_not_the_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text("same")
    first = input_fingerprint(config(train_path=str(tmp_path / "a")), "train")
    assert first == input_fingerprint(config(train_path=str(tmp_path / "b")), "train")
    assert first != input_fingerprint(config(train_path=str(tmp_path / "a"), text_unit="line"), "train")
    (tmp_path / "a/a.txt").write_text("other")
    assert first != input_fingerprint(config(train_path=str(tmp_path / "a")), "train")


@pytest.mark.parametrize("name", ["x.jsonl", "x.txt", "x.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    import pyarrow
    import pyarrow.parquet

    count, text = 20_000, "0123456789" * 100
    if name == "x.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": [text] * count}), tmp_path / name, row_group_size=1000)
    else:
        line = json.dumps({"text": text}) if name == "x.jsonl" else text
        (tmp_path / name).write_text(f"{line}\n" * count)
    tracemalloc.start()
    try:
        assert (
            sum(1 for _ in read_documents(config(train_path=str(tmp_path / name), text_unit="line"), "train")) == count
        )
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # of a file of 20 MB
    finally:
        tracemalloc.stop()


def test_real_data(shared: Path) -> None:
    data = shared / "data"
    pairs = config(kind="pairs", train_path=[str(data / f"multi30k/train.{language}") for language in ("en", "de")])
    assert len(documents(pairs)) == 29_000
    lines = config(train_path=str(data / "wikitext-2/train.txt.gz"), text_unit="line")
    bad = BadDocuments()
    assert len(texts(lines, bad=bad)) + bad.empty == 36_718
    (book,) = texts(config(train_path=str(data / "sentencepiece/botchan.txt")))
    assert book.startswith("Project Gutenberg") and "\r" not in book
