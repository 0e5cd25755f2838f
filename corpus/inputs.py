"""Files -> a source: rows in units, which any process can read by themselves, in any order.

A unit is about two megabytes: a byte range of lines, a row group of Parquet, a row range of Arrow, some whole texts.
What cannot be cut (csv, compressed files, paragraphs, functions) is one unit a file; one process reads its lines and
paragraphs, and can hand them to others, many at a time. Units and the rows in them are counted from 0, whoever reads
them; the address of a document is unit << 32 | row, and grows along the source.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from xxhash import xxh3_128, xxh3_128_hexdigest

from corpus import reading, tables
from corpus.blocks import Block, Column, block_of_files, block_of_lines, rows_of_lines
from corpus.fields import OF_KIND
from corpus.files import COMPRESSED, ESCAPED, Row, TextUnit, kind_of
from corpus.splitting import place_of, places_from
from utils.files import shown
from utils.hashing import sha256_file, sha256_json

UNIT_BYTES = 1 << 21
COMPRESSED_LINES = ("compressed lines", "compressed json")
STREAMED = (*COMPRESSED_LINES, "paragraphs")  # readers of what is read from its start, a megabyte at a time
LARGE = 1 << 26  # a unit above this is read in pieces, never held at once
ROW = 32  # bits of a row's number in an address

Share = tuple[float, float]  # [low, high) of [0, 1)
Reader = Literal[
    "lines", "json", "compressed lines", "compressed json", "paragraphs", "parquet", "arrow", "texts", "whole",
    "parallel",
]  # fmt: skip


def unit_of(address: int) -> int:
    """The unit that an address lies in."""
    return int(address) >> ROW


def address_of(unit: int, row: int = 0) -> int:
    """The place of a row in its source: int64, in the order of reading."""
    return unit << ROW | row


class Source:
    """Rows that one or several splits are cut from."""

    def __init__(self, shares: dict[str, Share]) -> None:
        """shares: which rows each split gets, by their places in [0, 1); (0, 1) is all."""
        self.shares = shares
        self.units = 1

    def unit_bytes(self, unit: int) -> int:
        """About how many bytes of text a unit has; 0 where nobody knows."""
        raise NotImplementedError

    def bytes_before(self, unit: int) -> int:
        """Of the units before one, each of them one at least: how far into the source it lies."""
        return sum(max(1, self.unit_bytes(before)) for before in range(unit))

    def rows(self, unit: int, start: int = 0) -> Iterator[tuple[int, Row]]:
        """(number in the unit, row) from row `start` on. Rows of lines have no `where`: see below."""
        raise NotImplementedError

    def block(self, unit: int, names: Sequence[str]) -> Block | None:
        """The rows of a unit at once, columns by their names; None where that cannot be."""
        return None

    def lines(self, unit: int) -> Iterator[tuple[int, reading.Lines]] | None:
        """Of a unit that only one process can read, lines that follow one another, and the number of the first; None
        where it has none."""
        return None

    def block_of(self, unit: int, first: int, lines: reading.Lines, names: Sequence[str]) -> Block:
        """Lines of a unit as `block` has a whole one. first: the number of their first row."""
        raise NotImplementedError

    def where(self, unit: int, row: int) -> str:
        """How a user finds a row: "file:line"."""
        raise NotImplementedError

    def is_small(self, unit: int) -> bool:
        """Whether any process may read the unit, and hold it; else the main one reads it, some rows at a time."""
        return False

    def place(self, unit: int, row: int) -> float:
        """Where a row falls in [0, 1): what decides its split."""
        first, stratum = self.numbers(unit)
        return place_of(first + row, stratum)

    def places(self, unit: int, start: int, rows: int) -> np.ndarray:
        """The same of some rows of a unit, from row `start` on. -> (rows,)"""
        first, stratum = self.numbers(unit)
        return places_from(first + start, rows, stratum)

    def numbers(self, unit: int) -> tuple[int, int]:
        """-> the number of a unit's first row, and in which count of rows: one for all units, or each has its own."""
        return 0, unit

    def digest(self, unit: int) -> str:
        """A hash of what a unit is read from. It finds what has changed, and is not made to resist who forges: SHA-256
        would cost as much as half of reading the JSON."""
        raise NotImplementedError

    def changed_since(self, time: float) -> bool:
        """Whether what is read may have changed since (seconds, as time.time())."""
        return True

    def sizes(self) -> str:
        """A hash that is quickly made, without reading: of the sizes of all that is read, wherever it lies."""
        raise NotImplementedError


@dataclass(frozen=True)
class Piece:
    """A file, or files that are read together, and how its units are cut."""

    paths: tuple[Path, ...]
    reader: Reader
    n_bytes: int
    ends: tuple[int, ...] = (1,)  # parquet, arrow: the row that each unit ends before
    units: int = 1
    unit_bytes: int = 0
    rows_before: int | None = None  # in the files before it; None: nobody knows without reading them


class FileSource(Source):
    """Files, read in order."""

    def __init__(
        self, shares: dict[str, Share], files: list[list[Path]], text_unit: TextUnit, longest: int, kind: str,
    ) -> None:  # fmt: skip
        """files: each by itself, or two that belong together line by line. longest: bytes of a document.
        kind: of the documents (dataset.kind)."""
        super().__init__(shares)
        self.longest, self.text_unit, self.names = longest, text_unit, list(OF_KIND[kind])
        self.pieces = list(_pieces(files, text_unit))
        self.first = list(accumulate((piece.units for piece in self.pieces), initial=0))
        self.units = self.first[-1]
        sizes = (piece.units * max(1, piece.n_bytes // piece.units) for piece in self.pieces)
        self.bytes_of_pieces = list(accumulate(sizes, initial=0))

    def _find(self, unit: int) -> tuple[Piece, int]:
        number = bisect_right(self.first, unit) - 1
        return self.pieces[number], unit - self.first[number]

    def unit_bytes(self, unit: int) -> int:
        """An equal share of its file."""
        piece, _ = self._find(unit)
        return piece.n_bytes // piece.units

    def is_small(self, unit: int) -> bool:
        """Whether it can be cut out of its file, and is no huge row group; else the main process reads the file."""
        piece, _ = self._find(unit)
        is_cut = piece.reader in ("lines", "json", "parquet", "arrow", "texts")
        return is_cut and piece.n_bytes // piece.units <= LARGE

    def rows(self, unit: int, start: int = 0) -> Iterator[tuple[int, Row]]:
        """Of one unit of a file, or of the files that are read together."""
        piece, number = self._find(unit)
        return ((i, row) for i, row in self._rows(piece, number) if row is not None and i >= start)

    def block(self, unit: int, names: Sequence[str]) -> Block | None:
        """Lines, files that are a text each, and tables whose columns are text."""
        piece, number = self._find(unit)
        if piece.reader == "texts":
            return block_of_files(piece.paths, names, self.longest)
        if piece.reader in ("lines", "json"):
            lines, read = self._lines(piece, number)
            return replace(self.block_of(unit, 0, lines, names), digest=xxh3_128_hexdigest(read))
        first = piece.ends[number - 1] if number else 0
        columns = None
        if piece.reader == "parquet":
            columns = tables.parquet_texts(piece.paths[0], number, names)
        elif piece.reader == "arrow":
            columns = tables.arrow_texts(piece.paths[0], first, piece.ends[number], names)
        if columns is None:
            return None
        found = columns  # of a record nothing else will be asked for
        return Block(
            list(map(Column.of, found)),
            lambda i: Row("", {name: column[i] for name, column in zip(names, found, strict=True)}), self.digest(unit),
        )  # fmt: skip

    def lines(self, unit: int) -> Iterator[tuple[int, reading.Lines]] | None:
        """Of compressed files of lines, and of paragraphs."""
        piece, _ = self._find(unit)
        return self._streamed(piece) if piece.reader in STREAMED else None

    def _streamed(self, piece: Piece) -> Iterator[tuple[int, reading.Lines]]:
        first = 0
        streamed = reading.streamed_paragraphs if piece.reader == "paragraphs" else reading.streamed_lines
        for lines in streamed(piece.paths[0], self._longest_line(piece)):
            yield first, lines
            first += lines.number

    def block_of(self, unit: int, first: int, lines: reading.Lines, names: Sequence[str]) -> Block:
        """Of a file of lines, cut or compressed, or of paragraphs."""
        piece, number = self._find(unit)
        return block_of_lines(lines, "json" in piece.reader, names, number == first == 0)

    def _lines(self, piece: Piece, number: int) -> tuple[reading.Lines, memoryview]:
        return reading.block_lines(piece.paths[0], *_bytes_of(piece, number), self._longest_line(piece))

    def _longest_line(self, piece: Piece) -> int:
        return self.longest * (ESCAPED if "json" in piece.reader else 1)

    def _rows(self, piece: Piece, number: int) -> Iterator[tuple[int, Row | None]]:
        path = piece.paths[0]
        is_json = "json" in piece.reader
        if piece.reader in ("lines", "json"):
            lines, _ = self._lines(piece, number)
            return enumerate(rows_of_lines(lines, is_json, number == 0))
        if piece.reader in COMPRESSED_LINES:
            return (
                (first + i, row)
                for first, lines in self._streamed(piece)
                for i, row in enumerate(rows_of_lines(lines, is_json, first == 0))
            )
        first = piece.ends[number - 1] if number else 0
        if piece.reader == "parquet":
            return enumerate(tables.parquet_group_rows(path, number, first))
        if piece.reader == "arrow":
            return enumerate(tables.arrow_rows_between(path, first, piece.ends[number]))
        if piece.reader == "parallel":
            return enumerate(reading.parallel_rows(list(piece.paths), self.names, self.longest))
        return enumerate(row for path in piece.paths for row in reading.rows_of(path, self.text_unit, self.longest))

    def where(self, unit: int, row: int) -> str:
        """File and line (of tables: row); lines before the unit are counted only now."""
        piece, number = self._find(unit)
        if piece.reader in ("lines", "json"):
            start = number * UNIT_BYTES
            return f"{shown(piece.paths[0])}:{_lines_begun(piece.paths[0], start) + row + 1}"
        if piece.reader in COMPRESSED_LINES:
            return f"{shown(piece.paths[0])}:{row + 1}"
        if piece.reader == "paragraphs":
            return reading.where_paragraph(piece.paths[0], self.longest, row)
        if piece.reader in ("parquet", "arrow"):
            return f"{shown(piece.paths[0])}:{(piece.ends[number - 1] if number else 0) + row + 1}"
        return next((found.where for _, found in self.rows(unit, row)), shown(piece.paths[0]))

    def numbers(self, unit: int) -> tuple[int, int]:
        """Rows are counted through all files where their numbers are known without reading, else in each unit."""
        piece, number = self._find(unit)
        if piece.rows_before is None:
            return 0, unit
        return piece.rows_before + (piece.ends[number - 1] if number else 0), 0

    def digest(self, unit: int) -> str:
        """Of the unit's bytes; of a table, of an equal share of its file; of files that are read together, of all."""
        piece, number = self._find(unit)
        if piece.reader in ("lines", "json"):
            start, stop = _bytes_of(piece, number)
        elif piece.units == 1:
            return sha256_json([sha256_file(path) for path in piece.paths])
        else:
            size = piece.paths[0].stat().st_size
            start, stop = size * number // piece.units, size * (number + 1) // piece.units
        found = xxh3_128()
        with open(piece.paths[0], "rb") as file:
            file.seek(start)
            for at in range(start, stop, UNIT_BYTES):  # a row group of Parquet may be larger than memory
                found.update(file.read(min(UNIT_BYTES, stop - at)))
        return found.hexdigest()

    def changed_since(self, time: float) -> bool:
        """By the times of its files."""
        return any(path.stat().st_mtime >= time for piece in self.pieces for path in piece.paths)

    def sizes(self) -> str:
        """Of the kinds and sizes of the files, in their order."""
        return sha256_json([
            [kind_of(path), path.stat().st_size] for piece in self.pieces for path in piece.paths
        ])  # fmt: skip


def _bytes_of(piece: Piece, number: int) -> tuple[int, int]:
    """The bytes of a file, from … up to, in which the lines of a unit begin."""
    return number * UNIT_BYTES, min((number + 1) * UNIT_BYTES, piece.n_bytes)


def _pieces(files: list[list[Path]], text_unit: TextUnit) -> Iterator[Piece]:
    """How files are cut into units. Small texts that are a document each are read together."""
    texts: list[Path] = []
    together = texts_before = table_rows = 0
    for group in files:
        n_bytes = sum(path.stat().st_size * (4 if path.suffix in COMPRESSED else 1) for path in group)
        reader = _reader_of(group, text_unit)
        if texts and (reader != "texts" or together + n_bytes > UNIT_BYTES):
            yield Piece(tuple(texts), "texts", together, rows_before=texts_before - len(texts))
            texts, together = [], 0
        if reader == "texts":
            texts.append(group[0])
            together, texts_before = together + n_bytes, texts_before + 1
        elif reader in ("lines", "json"):
            yield Piece(tuple(group), reader, n_bytes, units=max(1, -(-n_bytes // UNIT_BYTES)))
        elif reader in ("parquet", "arrow"):
            ends, n_bytes = _table_units(group[0], reader, n_bytes)
            yield Piece(tuple(group), reader, n_bytes, ends, len(ends), rows_before=table_rows)
            table_rows += ends[-1]
        else:
            yield Piece(tuple(group), reader, n_bytes)
    if texts:
        yield Piece(tuple(texts), "texts", together, rows_before=texts_before - len(texts))


def _reader_of(group: list[Path], text_unit: TextUnit) -> Reader:
    kind = kind_of(group[0])
    if len(group) == 2:
        return "parallel"
    if kind in (".parquet", ".arrow"):
        return "parquet" if kind == ".parquet" else "arrow"
    is_cut = group[0].suffix not in COMPRESSED
    if kind in (".jsonl", ".ndjson", ".json"):
        return "json" if is_cut else "compressed json"
    if kind in (".csv", ".tsv"):
        return "whole"
    if text_unit == "file":
        return "texts"
    if text_unit == "line":
        return "lines" if is_cut else "compressed lines"
    return "paragraphs"


def _table_units(path: Path, reader: Reader, n_bytes: int) -> tuple[tuple[int, ...], int]:
    """-> the row that each unit ends before, bytes"""
    if reader == "parquet":
        groups = tables.parquet_groups(path)
        return tuple(accumulate(rows for rows, _ in groups)) or (0,), sum(size for _, size in groups)
    rows = tables.arrow_row_count(path)
    units = max(1, min(rows, -(-n_bytes // UNIT_BYTES)))
    return tuple(rows * (i + 1) // units for i in range(units)), n_bytes


def _lines_begun(path: Path, stop: int) -> int:
    """Lines of a file that begin before the byte `stop` (0: none), other than one that ends there."""
    count = 0
    with open(path, "rb") as file:
        for start in range(0, stop, UNIT_BYTES):
            block = file.read(min(UNIT_BYTES, stop - start))
            count += block.count(b"\n")
        return count + (stop > 0 and not block.endswith(b"\n"))
