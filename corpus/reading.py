"""A file -> rows: records with the place they stand at, one at a time; or lines, some megabytes of them at a time.

    .txt  .jsonl  .csv  .tsv (each also .gz or .zst)   .parquet   .arrow and folders of `save_to_disk`

A row that cannot be read is a row too, with what is wrong with it: whether that stops the stage is not decided here.
Text is UTF-8; a byte-order mark at the start of a file and the \\r of Windows line ends are no part of it.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from corpus.files import BOM, COMPRESSED, ESCAPED, Row, TextUnit, damage, kind_of, opened
from corpus.json_lines import json_row
from corpus.lines import number_of_lines, number_of_paragraphs, texts_of, texts_of_paragraphs
from corpus.tables import arrow_rows, parquet_rows, separated_rows
from tokenizer.batches import Texts
from utils.files import shown
from utils.messages import UserError

LINE_BYTES = 1 << 16  # beyond a block, in which its last line ends if that is no longer
STREAM_BYTES = 1 << 20  # of a file that is read from its start, at once


def rows_of(path: Path, text_unit: TextUnit, longest: int) -> Iterator[Row]:
    """The rows of one file. What has an unknown ending is text.

    longest: bytes of the longest document; a longer line or text is a bad row, and is never held whole.
    Raises UserError where the file cannot be read at all.
    """
    kind = kind_of(path)
    with damage(path):
        if kind in (".jsonl", ".ndjson", ".json"):
            yield from _json_rows(path, longest)
        elif kind in (".csv", ".tsv"):
            yield from separated_rows(path, longest)
        elif kind == ".parquet":
            yield from parquet_rows(path)
        elif kind == ".arrow":
            yield from arrow_rows(path)
        elif text_unit == "file":
            yield _whole(path, longest)
        elif text_unit == "line":
            name = shown(path)
            yield from (_text_row(name, *line) for line in _lines(path, longest))
        else:
            yield from _paragraphs(path, longest)


def parallel_rows(paths: list[Path], names: list[str], longest: int) -> Iterator[Row]:
    """Line n of the first file beside line n of the second. names: of the fields of the two.

    Raises UserError where one has more lines than the other.
    """
    counts = [count_lines(path) for path in paths]
    if counts[0] != counts[1]:
        raise UserError(
            f"line-parallel files differ in length: {shown(paths[0])} has {counts[0]:,} lines, {shown(paths[1])} has "
            f"{counts[1]:,}; line n of one must belong to line n of the other"
        )
    files = list(map(shown, paths))
    for one, other in zip(_lines(paths[0], longest), _lines(paths[1], longest), strict=True):
        rows = [_text_row(name, *line) for name, line in zip(files, (one, other), strict=True)]
        bad = next((row for row in rows if row.record is None), None)
        texts = [row.record["text"] for row in rows if row.record is not None]
        yield bad or Row(rows[0].where, dict(zip(names, texts, strict=True)))


def count_lines(path: Path) -> int:
    """Lines of a text file; the last one counts whether it ends in a newline or not."""
    count, last = 0, b"\n"
    with damage(path), opened(path) as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _lines(path: Path, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, bytes without the line end) of each line; None for the bytes of one that is too long.

    Only \\n ends a line (and \\r before it): the other separators of Unicode may stand in a text.
    """
    number = 0
    for lines in streamed_lines(path, longest):
        for line in lines.each:
            number += 1
            yield number, line


def _text_row(name: str, number: int, raw: bytes | None) -> Row:
    """name: of the file; number: of the line in it that the text begins with."""
    row = text_row(raw, f"{name}:{number}")
    if raw is not None and row.reason == "not UTF-8":
        line = number + raw[: _bad_byte(raw)].count(b"\n")
        return row._replace(where=f"{name}:{line}")
    return row


def text_row(raw: bytes | None, where: str = "") -> Row:
    """The row of a text. None: one that is too long."""
    if raw is None:
        return Row(where, None, "too long")
    try:
        return Row(where, {"text": raw.decode()})
    except UnicodeDecodeError as problem:
        return Row(where, None, "not UTF-8", f"byte {raw[problem.start]:#04x}")


def _bad_byte(raw: bytes) -> int:
    try:
        raw.decode()
    except UnicodeDecodeError as problem:
        return problem.start
    return 0


def file_bytes(path: Path, longest: int) -> bytes:
    """What a file holds, without its compression; of one that is too long, as much as tells that."""
    most = longest + len(BOM) + 1
    with damage(path), opened(path) as file:
        # Room is made for as much as is asked for, so that is little more than there is.
        size = path.stat().st_size if path.suffix not in COMPRESSED else 0
        raw = file.read(min(most, size + 1))
        return raw if len(raw) == size else raw + file.read(most - len(raw))


def file_text(raw: bytes, longest: int) -> bytes | None:
    """What the bytes of a file say, if that is text; None for one that is too long."""
    raw = raw.removeprefix(BOM)
    return None if len(raw) > longest else raw.replace(b"\r\n", b"\n")


def _whole(path: Path, longest: int) -> Row:
    text = file_text(file_bytes(path, longest), longest)
    if text is None:
        advice = "the whole file is one document; dataset.text_unit: paragraph or line"
        return Row(f"{shown(path)}:1", None, "too long", advice)
    return _text_row(shown(path), 1, text)


def _paragraphs(path: Path, longest: int) -> Iterator[Row]:
    """What stands between empty lines."""
    name, line = shown(path), 1
    for paragraphs in streamed_paragraphs(path, longest):
        for begin, content in paragraphs.placed:
            yield _text_row(name, line + begin, content)
        line += paragraphs.lines


def where_paragraph(path: Path, longest: int, number: int) -> str:
    """ "file:line" of the paragraph with that number, from 0; of one that is not UTF-8, where it is not."""
    name, line = shown(path), 1
    for paragraphs in streamed_paragraphs(path, longest):
        if number < paragraphs.number:
            begin, content = paragraphs.placed[number]
            return _text_row(name, line + begin, content).where
        number -= paragraphs.number
        line += paragraphs.lines
    return name


def _json_rows(path: Path, longest: int) -> Iterator[Row]:
    name = shown(path)
    for number, raw in _lines(path, ESCAPED * longest):
        row = json_row(raw, f"{name}:{number}", is_first=number == 1)
        if row is not None:
            yield row


@dataclass
class Lines:
    """Lines that follow one another in a file, with their ends."""

    data: bytes
    start: int  # where in data the first one begins
    stop: int  # where in data the last one ends
    longest: int  # bytes that a line may have without its end

    @property
    def number(self) -> int:
        """How many there are."""
        return number_of_lines(self.together)

    @property
    def together(self) -> memoryview:
        """All of them, those that are too long included."""
        return memoryview(self.data)[self.start : self.stop]

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process, without what was made of it here."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def each(self) -> list[bytes | None]:
        """One by one, without their ends; None for one that is too long."""
        stream = io.BytesIO(self.data)  # which copies nothing
        stream.seek(self.start)
        lines = (without_end(stream.readline()) for _ in range(self.number))
        return [line if len(line) <= self.longest else None for line in lines]

    def texts(self, name: str | None = None) -> tuple[Texts, np.ndarray] | None:
        """What they say, and which are to be looked at one by one: see `texts_of`. name: of a field, where they are of
        JSON."""
        return texts_of(self.together, self.number, self.longest, name)


@dataclass
class Paragraphs(Lines):
    """Paragraphs that follow one another: lines that are not blank, with blank ones or nothing around them. A line that
    is too long is not blank, whatever it says: of some nobody knows."""

    lines: int = 0  # of the file, that these are

    @property
    def number(self) -> int:
        """How many there are."""
        number = number_of_paragraphs(self.together, self.longest)
        return len(self.placed) if number is None else number

    @cached_property
    def placed(self) -> list[tuple[int, bytes | None]]:
        """(number of its first line, from 0; what it says, or None if that is too long) of each."""
        found: list[tuple[int, list[bytes]]] = []
        is_open = False
        for number, line in enumerate(map(without_end, bytes(self.together).split(b"\n"))):
            is_blank = len(line) <= self.longest and not line.strip()
            if not is_blank and not is_open:
                found.append((number, []))
            if not is_blank:
                found[-1][1].append(line)
            is_open = not is_blank
        joined = ((number, b"\n".join(lines)) for number, lines in found)
        return [(number, text if len(text) <= self.longest else None) for number, text in joined]

    @cached_property
    def each(self) -> list[bytes | None]:
        """What each says; None for one that is too long."""
        return [text for _, text in self.placed]

    def texts(self, name: str | None = None) -> tuple[Texts, np.ndarray] | None:
        """The same as of lines. name: they have no fields"""
        return texts_of_paragraphs(self.together, self.number, self.longest)


def block_lines(path: Path, start: int, stop: int, longest: int) -> tuple[Lines, memoryview]:
    """-> the lines that begin in the bytes start, …, stop - 1 of a file; and those bytes."""
    begin = max(0, start - 1)
    with damage(path), open(path, "rb") as file:
        file.seek(begin)
        data = file.read(stop - begin + LINE_BYTES)
        size = min(stop - begin, len(data))
        own = memoryview(data)[min(start, 1) : size]
        # Unless the byte before is a line's end, the first bytes belong to a line that began earlier.
        first = data.find(b"\n", 0, size) + 1 if start else len(BOM) * data.startswith(BOM)
        if first == size or (start and not first):
            return Lines(b"", 0, 0, longest), own
        end = data.find(b"\n", size - 1) + 1
        if not end:  # of a line that is too long no more is read than tells that
            last = len(data) - max(first, data.rfind(b"\n") + 1)
            data = data[first:] + file.readline(max(0, longest + len(b"\r\n") + 1 - last))
            first, end = 0, len(data)
    return Lines(data, first, end, longest), own


def streamed_lines(path: Path, longest: int) -> Iterator[Lines]:
    """All lines of a file, compressed or not, about STREAM_BYTES at a time.

    longest: bytes of a line without its end. Another stands for one that is longer.
    Raises UserError where the file cannot be read, or is damaged."""
    cut = longest + len(b"\r\n") + 1
    with damage(path), opened(path) as file:
        data = file.read(len(BOM)).removeprefix(BOM)
        # Of a line whose end is not in sight as much again each time, but not more than tells that it is too long.
        while more := file.read(max(STREAM_BYTES, min(len(data), cut - len(data)))):
            data += more
            if end := data.rfind(b"\n") + 1:
                yield Lines(data[:end], 0, end, longest)
                data = data[end:]
            if len(data) >= cut:
                yield Lines(b"-", 0, 1, 0)  # one byte is too long where none is allowed: what it says is not needed
                data = _behind_line(file)
        if data:
            yield Lines(data, 0, len(data), longest)


def streamed_paragraphs(path: Path, longest: int) -> Iterator[Paragraphs]:
    """All paragraphs of a file, compressed or not, about STREAM_BYTES at a time.

    longest: bytes of a paragraph. Another stands for one that is longer.
    Raises UserError where the file cannot be read, or is damaged."""
    most = 2 * longest + LINE_BYTES  # bytes of what may still be short enough, however many \r are in it
    rest, is_skipping = b"", False  # what has come since the last blank line; whether it goes on with what is too long
    for lines in streamed_lines(path, longest):
        is_long = lines.longest < longest  # one line alone is
        more = b"-\n" if is_long else bytes(lines.together)
        if is_skipping:
            end = _behind_first_blank(more, longest)
            yield Paragraphs(b"", 0, 0, longest, more.count(b"\n", 0, end or len(more)))
            more, is_skipping = more[end:] if end else b"", not end
        if end := _behind_last_blank(more, longest):
            own, more = rest + more[:end], more[end:]
            rest = b""
            yield Paragraphs(own, 0, len(own), longest, own.count(b"\n"))
        rest += more
        if rest and (is_long or len(rest) > most):
            yield Paragraphs(b"-", 0, 1, 0, rest.count(b"\n"))
            rest, is_skipping = b"", True
    if rest:
        yield Paragraphs(rest, 0, len(rest), longest)


def _behind_first_blank(lines: bytes, longest: int) -> int:
    """The place behind the first line that is blank; 0 where there is none."""
    start = 0
    while end := lines.find(b"\n", start) + 1:
        if _is_blank(lines[start:end], longest):
            return end
        start = end
    return 0


def _behind_last_blank(lines: bytes, longest: int) -> int:
    """The same of the last one: mostly it is near."""
    end = lines.rfind(b"\n") + 1
    while end:
        start = lines.rfind(b"\n", 0, end - 1) + 1
        if _is_blank(lines[start:end], longest):
            return end
        end = start
    return 0


def _is_blank(line: bytes, longest: int) -> bool:
    return not line.strip() and len(without_end(line)) <= longest


def _behind_line(file: IO[bytes]) -> bytes:
    """Reads past the end of a line. -> what was read beyond it"""
    while more := file.read(STREAM_BYTES):
        if end := more.find(b"\n") + 1:
            return more[end:]
    return b""


def without_end(line: bytes) -> bytes:
    """A line without \\n or \\r\\n."""
    return line.removesuffix(b"\n").removesuffix(b"\r")
