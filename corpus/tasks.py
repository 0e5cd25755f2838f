"""Units of a source -> tasks for worker processes -> tokens of each split, in the order of the source.

A small unit is read where it is encoded: what travels between processes is its number, and its tokens back. Of a large
one, or one that only one process can read, the main process reads some rows at a time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from corpus.documents import Bad, Reader
from corpus.encoding import Encoder, Piece
from corpus.inputs import ROW, Source, address_of, unit_of
from corpus.shards import Skipped, Tokens, joined

TASK_BYTES = 4 << 20  # of small units that are read together
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
    rows: list[Found] = field(default_factory=list)  # or read already
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

    def __call__(self, task: Task) -> Result:
        """Rows that are no documents are among what is skipped: some may lie beyond a cap, and are nobody's business.

        Raises UserError at a document that the encoder cannot use, where those stop the stage."""
        source = self.sources[task.source]
        made: dict[str, list[Tokens]] = {split: [] for split in task.since}
        of_units = (find(source, unit, self.reader, task.since) for unit in task.units)  # rows come one by one
        for batch in chain([task.rows] if task.rows else [], of_units):
            for split, tokens in self._encoded(source, batch).items():
                made[split].append(tokens)
        tokens = {split: joined(parts) for split, parts in made.items() if parts}
        ended = [*task.ended, *task.units]
        n_bytes = sum(int(one.n_bytes.sum()) for one in tokens.values())
        return Result(tokens, [(unit, source.digest(unit)) for unit in ended], n_bytes)

    def _encoded(self, source: Source, batch: Iterable[Found]) -> dict[str, Tokens]:
        def where(address: int) -> str:
            return source.where(unit_of(address), address & ((1 << ROW) - 1))

        pieces: dict[str, list[Piece]] = {}
        skipped: dict[str, list[Skipped]] = {}
        for split, address, read in batch:
            if not isinstance(read, Bad):
                pieces.setdefault(split, []).append(Piece(address, *read))
                continue
            skipped.setdefault(split, []).append(Skipped(address, *read, 0))
        tokens = {}
        for split in dict.fromkeys([*pieces, *skipped]):
            own = self.encoder(pieces.get(split, []), where)
            tokens[split] = own._replace(skipped=(*own.skipped, *skipped.get(split, ())))
        return tokens


def find(source: Source, unit: int, reader: Reader, since: dict[str, int], start: int = 0) -> Iterator[Found]:
    """The rows of a unit that belong to a split and are not done."""
    shares = [(split, *source.shares[split], first) for split, first in since.items()]
    whole = shares[0][0] if len(shares) == 1 and shares[0][1:3] == (0.0, 1.0) else None
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
    begin = n_bytes = 0
    for unit in units:
        if not source.is_small(unit):
            if n_bytes:
                yield Task(number, since, range(begin, unit))
                n_bytes = 0
            yield from _read_here(source, number, unit, reader, since, max(0, first - address_of(unit)))
            continue
        begin = begin if n_bytes else unit
        n_bytes += max(1, source.unit_bytes(unit))
        if n_bytes >= TASK_BYTES:
            yield Task(number, since, range(begin, unit + 1))
            n_bytes = 0
    if n_bytes:
        yield Task(number, since, range(begin, units.stop))


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
    yield Task(number, since, range(0), rows, (unit,))
