"""Rows that are read at once: their text by columns, and what is to be looked at row by row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus import json_lines, reading
from corpus.files import COMPRESSED, Row
from tokenizer.batches import Texts
from utils.hashing import sha256_bytes, sha256_file, sha256_json


@dataclass(frozen=True)
class Column:
    """The text of each row."""

    texts: Texts
    odd: list[int]  # rows that are to be looked at by themselves; increasing

    @classmethod
    def of(cls, values: Sequence[Any]) -> "Column":
        """Of values of which some may be no text."""
        with suppress(TypeError, UnicodeEncodeError):
            return cls(Texts(utf8=list(map(str.encode, values))), [])
        utf8, odd = [], []
        for i, value in enumerate(values):
            try:
                utf8.append(str.encode(value))
            except (TypeError, UnicodeEncodeError):
                utf8.append(b"")
                odd.append(i)
        return cls(Texts(utf8=utf8), odd)

    @classmethod
    def of_bytes(cls, values: Sequence[bytes | None]) -> "Column":
        """Of what should be UTF-8; None for what is too long."""
        odd = [i for i, value in enumerate(values) if value is None or not _is_utf8(value)]
        utf8 = list(values)
        for i in odd:
            utf8[i] = b""
        return cls(Texts(utf8=utf8), odd)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Block:
    """A unit, or some lines of one, of which some columns of text are read at once."""

    columns: list[Column]
    row: Callable[[int], Row | None]  # one that is to be looked at by itself, as `Source.rows` has it; None: is none
    digest: str  # of the unit; empty where it is of some lines


def block_of_lines(lines: reading.Lines, is_json: bool, names: Sequence[str], are_first: bool) -> Block:
    """Lines of JSON, lines of text, or paragraphs. names: of the columns. are_first: of their file."""
    columns = _columns_of_json(lines, names) if is_json else _columns_of_text(lines, names)
    return Block(columns, _row_of_lines(lines, is_json, are_first), "")


def rows_of_lines(lines: reading.Lines, is_json: bool, are_first: bool) -> Iterator[Row | None]:
    """The same row by row; None where there is none."""
    return map(_row_of_lines(lines, is_json, are_first), range(len(lines.each)))


def _row_of_lines(lines: reading.Lines, is_json: bool, are_first: bool) -> Callable[[int], Row | None]:
    def row(i: int) -> Row | None:
        line = lines.each[i]
        return json_lines.json_row(line, "", are_first and i == 0) if is_json else reading.text_row(line)

    return row


def _columns_of_json(lines: reading.Lines, names: Sequence[str]) -> list[Column]:
    columns = [_column(*found) for found in map(lines.texts, names) if found is not None]
    return columns if len(columns) == len(names) else list(map(Column.of, json_lines.json_texts(lines.each, names)))


def _columns_of_text(lines: reading.Lines, names: Sequence[str]) -> list[Column]:
    """A text is the one field that a line or a paragraph has."""
    found = lines.texts()
    text = Column.of_bytes(lines.each) if found is None else _column(*found)
    return [text if name == "text" else Column.of([None] * len(text.texts)) for name in names]


def _column(texts: Texts, is_odd: np.ndarray) -> Column:
    return Column(texts, np.flatnonzero(is_odd).tolist())


def block_of_files(paths: Sequence[Path], names: Sequence[str], longest: int) -> Block:
    """Files that are a text each."""
    texts, digests = [], []
    for path in paths:
        raw = reading.file_bytes(path, longest)
        is_whole = path.suffix not in COMPRESSED and len(raw) == path.stat().st_size
        digests.append(sha256_bytes(raw) if is_whole else sha256_file(path))
        texts.append(reading.file_text(raw, longest))
    columns = [Column.of_bytes(texts) if name == "text" else Column.of([None] * len(paths)) for name in names]
    return Block(columns, lambda i: next(reading.rows_of(paths[i], "file", longest)), sha256_json(digests))


def _is_utf8(text: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return text.isascii() or bool(text.decode())
    return False
