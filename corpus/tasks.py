"""Units of a source -> tasks for worker processes -> tokens of each split, in the order of the source.

A small unit is read where it is encoded: what travels between processes is its number, and its tokens back. Of a large
one, or one that only one process can read, the main process reads some rows at a time, or some lines, which are made
into rows where they are encoded.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from corpus.documents import EMPTY, Bad, Columns, Reader
from corpus.encoding import Documents, Encoder, Piece, in_columns
from corpus.inputs import ROW, Source, address_of, unit_of
from corpus.reading import Lines
from corpus.shards import Skipped, Tokens, joined
from utils.memory import Freed

TASK_BYTES = 1 << 20  # of small units that are read together
PIECE_DOCUMENTS, PIECE_BYTES = 512, 1 << 20  # of what the main process reads and a worker gets at once


class Found(NamedTuple):
    """A row of a split: its fields and bytes, or why there is no document."""

    split: str
    address: int
    read: tuple[dict, int] | Bad


@dataclass
class Task:
    """What a worker does at once."""

    source: int
    since: dict[str, int]  # for the splits that are wanted: rows before that address are done
    units: range  # to be read by the worker
    rows: list[Found] = field(default_factory=list)  # or read already,
    lines: tuple[int, int, Lines] | None = None  # or lines to make rows of, with their unit and the first row's number
    ended: tuple[int, ...] = ()  # units of which nothing is left: their hash is asked for


@dataclass
class Result:
    """What came of a task."""

    tokens: dict[str, Tokens]  # by split
    digests: list[tuple[int, str]]  # of the units that ended
    n_bytes: int  # of text, encoded


class Work:
    """Tasks -> results. Pickles, so that it can be sent to worker processes."""

    def __init__(self, sources: list[Source], reader: Reader, encoder: Encoder) -> None:
        self.sources, self.reader, self.encoder = sources, reader, encoder
        self.freed = Freed()

    def __call__(self, task: Task) -> Result:
        """Rows that are no documents are among what is skipped: some may lie beyond a cap, and are nobody's business.

        Raises UserError at a document that the encoder cannot use, where those stop the stage."""
        source = self.sources[task.source]
        made: dict[str, list[Tokens]] = {split: [] for split in task.since}
        digests = [(unit, source.digest(unit)) for unit in task.ended]
        self._encode(source, gathered(task.rows), made)
        if task.lines is not None:
            self._encode(source, read_lines(source, *task.lines, self.reader, task.since), made)
        for unit in task.units:
            read, digest = read_unit(source, unit, self.reader, task.since)
            digests.append((unit, digest))
            self._encode(source, read, made)
        tokens = {split: joined(parts) for split, parts in made.items() if parts}
        self.freed.give_back()
        return Result(tokens, digests, sum(int(one.n_bytes.sum()) for one in tokens.values()))

    def _encode(self, source: Source, read: dict[str, "Read"], made: dict[str, list[Tokens]]) -> None:
        def where(address: int) -> str:
            return source.where(unit_of(address), address & ((1 << ROW) - 1))

        for split, (documents, skipped, empty) in read.items():
            own = self.encoder(documents, where)
            made[split].append(own._replace(skipped=(*own.skipped, *skipped), empty=empty))


class Read(NamedTuple):
    """What some rows give to a split."""

    documents: Documents
    skipped: list[Skipped]  # rows without a document
    empty: np.ndarray  # (rows,) int64: addresses of those without text


def gathered(rows: Iterable[Found]) -> dict[str, Read]:
    """Rows one by one -> what each split has of them."""
    documents: dict[str, list[Piece]] = {}
    skipped: dict[str, list[Skipped]] = {}
    empty: dict[str, list[int]] = {}
    for split, address, read in rows:
        if not isinstance(read, Bad):
            documents.setdefault(split, []).append(Piece(address, *read))
        elif read.reason == EMPTY:
            empty.setdefault(split, []).append(address)
        else:
            skipped.setdefault(split, []).append(Skipped(address, *read, 0))
    return {
        split: Read(
            in_columns(documents.get(split, [])), skipped.get(split, []), np.array(empty.get(split, []), np.int64)
        )
        for split in dict.fromkeys([*documents, *skipped, *empty])
    }


def read_unit(source: Source, unit: int, reader: Reader, since: dict[str, int]) -> tuple[dict[str, Read], str]:
    """-> what each split has of a unit, and its hash: all rows at once where that can be, else row by row."""
    names = reader.fields.columns
    block = None if names is None else source.block(unit, names)
    if block is None:
        return gathered(find(source, unit, reader, since)), source.digest(unit)
    return divided(reader.read_block(block), source, unit, 0, since), block.digest


def read_lines(
    source: Source, unit: int, first: int, lines: Lines, reader: Reader, since: dict[str, int]
) -> dict[str, Read]:
    """-> what each split has of lines of a unit that another process has read. first: the number of their first row"""
    block = source.block_of(unit, first, lines, reader.fields.columns or ())
    return divided(reader.read_block(block), source, unit, first, since)


def divided(columns: Columns, source: Source, unit: int, start: int, since: dict[str, int]) -> dict[str, Read]:
    """Rows of a unit, from row `start` on -> what each split has of them."""
    rows, begin = len(columns.n_bytes), address_of(unit, start)
    is_empty, is_document = np.zeros(rows, bool), np.ones(rows, bool)
    is_empty[columns.empty] = True
    is_document[[*columns.empty, *columns.bad]] = False
    shares = _shares(source, since)
    places = None if _whole(shares) else source.places(unit, start, rows)
    read = {}
    for split, low, high, first in shares:
        own = np.arange(max(0, first - begin), rows)
        if places is not None:
            own = own[(low <= places[own]) & (places[own] < high)]
        bad = ((i, columns.bad[i]) for i in own.tolist() if i in columns.bad) if columns.bad else ()
        skipped = [Skipped(begin + i, *why, 0) for i, why in bad if why is not None]
        kept, empty = own[is_document[own]], begin + own[is_empty[own]]
        if len(kept) or skipped or len(empty):
            fields = {name: texts.chosen(kept) for name, texts in columns.fields.items()}
            read[split] = Read(Documents(begin + kept, fields, columns.n_bytes[kept]), skipped, empty)
    return read


def _shares(source: Source, since: dict[str, int]) -> list[tuple[str, float, float, int]]:
    """Of each split that is wanted its share of the source, and the first address that is not done."""
    return [(split, *source.shares[split], first) for split, first in since.items()]


def _whole(shares: list[tuple[str, float, float, int]]) -> str | None:
    """The split that every row belongs to, if that is so."""
    return shares[0][0] if len(shares) == 1 and shares[0][1:3] == (0.0, 1.0) else None


def find(source: Source, unit: int, reader: Reader, since: dict[str, int], start: int = 0) -> Iterator[Found]:
    """The rows of a unit that belong to a split and are not done."""
    shares = _shares(source, since)
    whole = _whole(shares)
    for number, row in source.rows(unit, start):
        address = address_of(unit, number)
        split, first = whole, since[whole] if whole else 0
        if not whole:
            place = source.place(unit, number)
            split, first = next(((s, f) for s, low, high, f in shares if low <= place < high), (None, 0))
        if split is not None and address >= first:
            yield Found(split, address, reader.read(row))


def tasks(source: Source, number: int, units: range, reader: Reader, since: dict[str, int]) -> Iterator[Task]:
    """The tasks of some units of a source. number: of the source. since: by split, what is done before."""
    first = min(since.values())
    is_plain = reader.fields.columns is not None
    begin = n_bytes = 0
    for unit in units:
        if not source.is_small(unit):
            if n_bytes:
                yield Task(number, since, range(begin, unit))
                n_bytes = 0
            start = max(0, first - address_of(unit))
            lines = source.lines(unit) if is_plain else None
            if lines is None:
                yield from _read_here(source, number, unit, reader, since, start)
            else:
                yield from _taken_apart(lines, number, unit, since, start)
            continue
        begin = begin if n_bytes else unit
        n_bytes += max(1, source.unit_bytes(unit))
        if n_bytes >= TASK_BYTES:
            yield Task(number, since, range(begin, unit + 1))
            n_bytes = 0
    if n_bytes:
        yield Task(number, since, range(begin, units.stop))


def _taken_apart(
    found: Iterator[tuple[int, Lines]], number: int, unit: int, since: dict[str, int], start: int
) -> Iterator[Task]:
    for first, lines in found:
        if first + lines.number > start:
            yield Task(number, since, range(0), lines=(unit, first, lines))
    yield Task(number, since, range(0), ended=(unit,))


def _read_here(
    source: Source, number: int, unit: int, reader: Reader, since: dict[str, int], start: int
) -> Iterator[Task]:
    rows: list[Found] = []
    n_bytes = 0
    for found in find(source, unit, reader, since, start):
        rows.append(found)
        n_bytes += 0 if isinstance(found.read, Bad) else found.read[1]
        if len(rows) == PIECE_DOCUMENTS or n_bytes >= PIECE_BYTES:
            yield Task(number, since, range(0), rows)
            rows, n_bytes = [], 0
    yield Task(number, since, range(0), rows, ended=(unit,))
