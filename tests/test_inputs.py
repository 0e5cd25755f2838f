"""Units of the input: one by one they are the whole, wherever lines, rows and files end; parts are runs of them."""

import json
import random
import tracemalloc
from pathlib import Path

import pytest
from xxhash import xxh3_128_hexdigest

from configs.schema import Config
from corpus import inputs
from corpus.documents import read_documents
from corpus.inputs import FileSource, Source
from corpus.parts import part_units
from corpus.reading import rows_of
from corpus.sources import sources

WHOLE = {"train": (0.0, 1.0)}


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "UNIT_BYTES", 64)


def all_rows(source: Source) -> list[tuple[int, int, object, str]]:
    return [(unit, number, row.record, row.reason) for unit in range(source.units) for number, row in source.rows(unit)]


def files(text_unit: str, *paths: Path, longest: int = 150) -> FileSource:
    return FileSource(WHOLE, [[path] for path in paths], text_unit, longest, "text")


def random_lines(chance: random.Random) -> bytes:
    """Lines of all lengths, some blank, some as long as several units; an end of either kind, or none."""
    lines = [b"x" * chance.choice([0, 1, 5, 30, 62, 63, 64, 65, 149, 150, 151, 152, 400]) for _ in range(20)]
    content = b"".join(line + chance.choice([b"\n", b"\r\n"]) for line in lines)
    return chance.choice([b"", b"\xef\xbb\xbf"]) + (content if chance.random() < 0.5 else content.rstrip(b"\r\n"))


@pytest.mark.parametrize("seed", range(30))
def test_lines_are_the_same_in_units(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(random_lines(random.Random(seed)))
    source = files("line", path)
    assert source.units == -(-path.stat().st_size // 64) or source.units == 1
    expected = list(rows_of(path, "line", 150))
    found = all_rows(source)
    assert [(record, reason) for _, _, record, reason in found] == [(row.record, row.reason) for row in expected]
    # Only who is asked for it counts the lines before.
    assert [source.where(unit, number) for unit, number, _, _ in found] == [row.where for row in expected]


@pytest.mark.parametrize("seed", range(10))
def test_json_lines_are_the_same_in_units(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "a.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(40):
            record = json.dumps({"text": "ü" * chance.choice([0, 3, 40, 90])}, ensure_ascii=False)
            file.write(chance.choice([record, record, "", " ", "{", "[1]", "\x00" * 80]) + "\n")
    expected = list(rows_of(path, "file", 100))
    source = files("file", path, longest=100)
    found = [(unit, number, row) for unit in range(source.units) for number, row in source.rows(unit)]
    assert [row[2:] for row in expected] == [row[2:] for _, _, row in found]
    assert [row.record for row in expected] == [row.record for _, _, row in found]
    assert [source.where(unit, number) for unit, number, _ in found] == [row.where for row in expected]
    for unit, number, _ in found[::7]:  # from the middle of a unit on
        assert next(source.rows(unit, number))[0] == number


def test_tables_and_small_texts_are_the_same_in_units(tmp_path: Path) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    texts = [f"row {i} " * (i % 9) for i in range(200)]
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=30)
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(tmp_path / "saved"))
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    for path, units in ((tmp_path / "a.parquet", 7), (arrow, None)):
        source = files("file", path)
        assert source.units == units or (units is None and source.units > 5)
        assert [record["text"] for _, _, record, _ in all_rows(source)] == texts
        unit, number, _, _ = all_rows(source)[123]
        assert source.where(unit, number).endswith(":124")
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"text {i} " * i)
    paths = sorted(tmp_path.glob("*.txt"))
    source = files("file", *paths)
    assert 5 < source.units < 20
    assert [record["text"] for _, _, record, _ in all_rows(source) if record] == [
        path.read_text() for path in paths if path.stat().st_size <= 150
    ]
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "e.parquet")
    assert all_rows(files("file", tmp_path / "e.parquet")) == []


def test_splits_that_are_cut_from_the_same_files_have_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i}\n" for i in range(3000)))
    given = Config(
        dataset={
            "source": "files", "path": str(path), "text_unit": "line",
            "fractions": {"train": 0.8, "validation": 0.1, "test": 0.1},
        }
    )  # fmt: skip
    (source,) = sources(given)
    assert list(source.shares) == ["train", "validation", "test"] and source.units > 100
    found = {split: [document.fields["text"] for document in read_documents(given, split)] for split in source.shares}
    assert sorted(sum(found.values(), [])) == sorted(path.read_text().splitlines())
    # Units of a few lines are too short to be cut exactly; over many of them the shares are right.
    assert 0.08 * 3000 < len(found["validation"]) < 0.12 * 3000


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 50])
def test_parts_are_runs_of_units_of_about_equal_size(tmp_path: Path, parts: int) -> None:
    for name, size in (("a", 1000), ("b", 10), ("c", 3000)):
        (tmp_path / f"{name}.txt").write_text("x\n" * (size // 2))
    source = files("line", *sorted(tmp_path.glob("*.txt")))
    runs = [part_units(source, part, parts) for part in range(parts)]
    assert [unit for run in runs for unit in run] == list(range(source.units))
    sizes = [sum(map(source.unit_bytes, run)) for run in runs]
    assert max(sizes) - min(sizes) <= 2 * 64


def test_the_hash_of_a_unit_knows_its_bytes_and_the_hashes_know_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(random.Random(0).randbytes(1000))
    before = [files("line", path).digest(unit) for unit in range(16)]
    for place in (0, 63, 64, 500, 999):
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        after = [files("line", path).digest(unit) for unit in range(16)]
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        before = after


def test_a_large_unit_is_hashed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "UNIT_BYTES", 1 << 20)
    path = tmp_path / "a.parquet"
    with open(path, "wb") as file:
        file.truncate(40 << 20)
    source = FileSource(WHOLE, [], "file", 150, "text")
    source.pieces, source.first = [inputs.Piece((path,), "parquet", 40 << 20, (1, 2), 2)], [0, 2]
    tracemalloc.start()
    found = source.digest(1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5 << 20  # of 20 MB
    assert found == xxh3_128_hexdigest(bytes(20 << 20))
