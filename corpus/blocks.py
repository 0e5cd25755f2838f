"""Rows that are read at once: their text by columns, and what is to be looked at row by row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus import json_lines, reading
from corpus.files import COMPRESSED, Row
from corpus.lines import texts_of, texts_of_paragraphs
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
        if isinstance(lines, reading.Paragraphs):
            return reading.text_row(line)
        content = None if line is None else reading.without_end(line)
        return json_lines.json_row(content, "", are_first and i == 0) if is_json else reading.text_row(content)

    return row


def _columns_of_json(lines: reading.Lines, names: Sequence[str]) -> list[Column]:
    number = lines.number
    found = [texts_of(lines.together, number, lines.longest, name) for name in names]
    columns = [_column(*each) for each in found if each is not None]
    return columns if len(columns) == len(names) else list(map(Column.of, json_lines.json_texts(lines.each, names)))


def _columns_of_text(lines: reading.Lines, names: Sequence[str]) -> list[Column]:
    """A text is the one field that a line or a paragraph has."""
    number = lines.number
    if isinstance(lines, reading.Paragraphs):
        found = texts_of_paragraphs(lines.together, number, lines.longest)
    else:
        found = texts_of(lines.together, number, lines.longest, None)
    text = Column.of(reading.texts_one_by_one(lines)) if found is None else _column(*found)
    return [text if name == "text" else Column.of([None] * number) for name in names]


def _column(texts: Texts, is_odd: np.ndarray) -> Column:
    return Column(texts, np.flatnonzero(is_odd).tolist())


def block_of_files(paths: Sequence[Path], names: Sequence[str], longest: int) -> Block:
    """Files that are a text each."""
    utf8, odd, digests = [], [], []
    for i, path in enumerate(paths):
        raw = reading.file_bytes(path, longest)
        is_whole = path.suffix not in COMPRESSED and len(raw) == path.stat().st_size
        digests.append(sha256_bytes(raw) if is_whole else sha256_file(path))
        text = reading.file_text(raw, longest)
        if text is None or not _is_utf8(text):
            odd.append(i)
            text = b""
        utf8.append(text)
    column = Column(Texts(utf8=utf8), odd)
    columns = [column if name == "text" else Column.of([None] * len(paths)) for name in names]
    return Block(columns, lambda i: next(reading.rows_of(paths[i], "file", longest)), sha256_json(digests))


def _is_utf8(text: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return text.isascii() or bool(text.decode())
    return False
