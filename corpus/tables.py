"""Tables (csv, tsv, Parquet, Arrow) -> their rows, one at a time, in constant memory."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from corpus.files import ESCAPED, Row, damage, kind_of, opened
from utils.files import shown
from utils.messages import UserError


class _TooLong(Exception):
    """A record that is read past."""


class _Lines:
    """The lines of a file for csv, of one record at most so many characters; what is beyond is not held."""

    def __init__(self, file: IO[str], most: int, quoted: bool) -> None:
        """most: characters of a record. quoted: whether a line's end may stand within quotation marks."""
        self.file, self.most, self.quoted = file, most, quoted
        self.number = self.size = 0  # lines that are read, and characters of the record
        self.is_open = False  # a quotation mark of the record is

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        """Raises _TooLong once the record is read past."""
        line = self._read()
        if not line:
            raise StopIteration
        self.size += len(line)
        if self.size <= self.most:
            return line
        while line and (self.is_open or not line.endswith(("\n", "\r"))):
            line = self._read()
        raise _TooLong

    def _read(self) -> str:
        line = self.file.readline(self.most + 1)
        self.number += line.endswith(("\n", "\r"))
        self.is_open ^= self.quoted and line.count('"') % 2 == 1
        return line

    def begin(self) -> str:
        """The next record begins. -> its line, as text"""
        self.size, self.is_open = 0, False
        return str(self.number + 1)


def separated_rows(path: Path, longest: int) -> Iterator[Row]:
    """csv: quoted as usual. tsv: never quoted, so that a quotation mark in a text is only that.

    longest: bytes of a document; a record of many times that is a bad row, and is never held whole."""
    most, is_csv = ESCAPED * longest, kind_of(path) == ".csv"
    csv.field_size_limit(max(csv.field_size_limit(), most))
    # Bytes that are not UTF-8 become lone surrogates, so that the row, not the whole file, is bad.
    with io.TextIOWrapper(opened(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file, most, quoted=is_csv)
        if is_csv:
            reader = csv.DictReader(lines, strict=True)
        else:
            reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            names = list(reader.fieldnames or [])
        except (_TooLong, csv.Error):
            raise UserError(f"{shown(path)}:1: the first line does not name the columns") from None
        if len(set(names)) < len(names):
            raise UserError(f"{shown(path)}:1: two columns have the same name, of {', '.join(names)}; rename one")
        while True:
            where = f"{shown(path)}:{lines.begin()}"
            try:
                record = next(reader, None)
            except csv.Error as problem:
                yield Row(where, None, "not CSV", str(problem))
                continue
            except _TooLong:
                yield Row(where, None, "too long", "is a quotation mark left open?" if is_csv else "")
                continue
            if record is None:
                return
            # A row longer than the first line has its last cells under None.
            if None in record:
                yield Row(where, None, "not CSV", f"{len(record[None])} columns more than the first line")
            elif any(isinstance(cell, str) and _is_escaped(cell) for cell in record.values()):
                yield Row(where, None, "not UTF-8")
            else:
                yield Row(where, {k: v.replace("\r\n", "\n") if isinstance(v, str) else v for k, v in record.items()})


def _is_escaped(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def parquet_rows(path: Path) -> Iterator[Row]:
    """All rows of a Parquet file."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from _batch_rows(path, file.iter_batches(batch_size=256))


def parquet_groups(path: Path) -> list[tuple[int, int]]:
    """Rows and bytes, uncompressed, of each row group of a Parquet file."""
    import pyarrow.parquet

    with damage(path), pyarrow.parquet.ParquetFile(path) as file:
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in groups]


def parquet_group_rows(path: Path, group: int, first_row: int) -> Iterator[Row]:
    """The rows of one row group. first_row: rows of the file before it."""
    import pyarrow.parquet

    with damage(path), pyarrow.parquet.ParquetFile(path) as file:
        if group < file.metadata.num_row_groups:  # an empty file has none
            yield from _batch_rows(path, file.iter_batches(batch_size=256, row_groups=[group]), first_row)


def parquet_texts(path: Path, group: int, names: Sequence[str]) -> list[list[Any]] | None:
    """Columns of one row group, of which nothing else is read; None unless all of them are of text that is UTF-8."""
    import pyarrow.parquet

    with damage(path), pyarrow.parquet.ParquetFile(path) as file:
        fields = file.schema_arrow
        if group >= file.metadata.num_row_groups or not all(_is_text(fields, name) for name in names):
            return None
        return _texts(file.read_row_group(group, columns=list(set(names)), use_threads=False), names)


def arrow_texts(path: Path, start: int, stop: int, names: Sequence[str]) -> list[list[Any]] | None:
    """Columns of the rows start, …, stop - 1 of an Arrow file; None unless all of them are of text that is UTF-8."""
    import pyarrow

    with damage(path), pyarrow.memory_map(str(path)) as source:
        found, first = [], 0
        for batch in _arrow_batches(source):
            low, high = max(start - first, 0), min(batch.num_rows, stop - first)
            if low < high:
                if not all(_is_text(batch.schema, name) for name in names):
                    return None
                found.append(batch.slice(low, high - low).select(list(set(names))))
            first += batch.num_rows
            if first >= stop:
                break
        return _texts(pyarrow.Table.from_batches(found), names) if found else None


def _is_text(fields: Any, name: str) -> bool:
    import pyarrow

    number = fields.get_field_index(name)  # -1 also where two have the name
    if number < 0 or "." in name:  # which names a part of a column
        return False
    return pyarrow.types.is_string(fields.field(number).type) or pyarrow.types.is_large_string(
        fields.field(number).type
    )


def _texts(table: Any, names: Sequence[str]) -> list[list[Any]] | None:
    try:
        return [table.column(name).to_pylist() for name in names]
    except UnicodeDecodeError:
        return None


def arrow_rows(path: Path) -> Iterator[Row]:
    """All rows of an Arrow file."""
    yield from arrow_rows_between(path, 0, None)


def arrow_rows_between(path: Path, start: int, stop: int | None) -> Iterator[Row]:
    """The rows start, …, stop - 1 (None: to the end) of an Arrow file."""
    import pyarrow

    with damage(path), pyarrow.memory_map(str(path)) as source:
        first = 0
        for batch in _arrow_batches(source):
            low, high = max(start - first, 0), batch.num_rows
            if stop is not None:
                high = min(high, stop - first)
            if low < high:
                yield from _batch_rows(path, _slices(batch.slice(low, high - low)), first + low)
            first += batch.num_rows
            if stop is not None and first >= stop:
                return


def arrow_row_count(path: Path) -> int:
    """Rows of an Arrow file; nothing of them is read."""
    import pyarrow

    with damage(path), pyarrow.memory_map(str(path)) as source:
        return sum(batch.num_rows for batch in _arrow_batches(source))


def _arrow_batches(source: Any) -> Iterable[Any]:
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(source)
    except pyarrow.ArrowInvalid:  # the other of Arrow's two formats
        source.seek(0)
        file = pyarrow.ipc.open_file(source)
        return (file.get_batch(i) for i in range(file.num_record_batches))


def _slices(batch: Any, rows: int = 256) -> Iterator[Any]:
    """A batch of Arrow may be the whole file: only some rows at a time become Python objects."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _batch_rows(path: Path, batches: Iterable[Any], number: int = 0) -> Iterator[Row]:
    for batch in batches:
        try:
            records = batch.to_pylist()
        except UnicodeDecodeError:
            yield from _one_by_one(path, batch, number)
            number += batch.num_rows
            continue
        for record in records:
            number += 1
            yield Row(f"{shown(path)}:{number}", record)


def _one_by_one(path: Path, batch: Any, number: int) -> Iterator[Row]:
    for i in range(batch.num_rows):
        try:
            yield Row(f"{shown(path)}:{number + i + 1}", batch.slice(i, 1).to_pylist()[0])
        except UnicodeDecodeError:
            yield Row(f"{shown(path)}:{number + i + 1}", None, "not UTF-8")
