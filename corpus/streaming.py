"""Documents -> windows without shards: read, tokenised, cut and mixed a block at a time, epoch after epoch.

    units of the source -> documents of one stream -> blocks of `shuffle_buffer` -> tokens -> windows in a random order

Each worker of each rank reads a stream of its own; of an epoch every document is in exactly one of them. A block is a
function of where it begins, so a stream goes on from its `Position`: nothing else is stored, and one block read again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from corpus.documents import EMPTY, Bad, BadDocuments, Reader
from corpus.encoding import Encoder, Piece, in_columns
from corpus.held import HeldShards
from corpus.inputs import Source, address_of, unit_of
from corpus.order import Order
from corpus.packing import Packing, Windows
from corpus.window_index import WindowIndex
from utils.messages import UserError

BLOCK_BYTES = 1 << 23  # of text, at which a block ends even if it has fewer documents
UNITS_EACH = 8  # where each stream has at least so many units it reads only its own; else all, and keeps its documents


@dataclass(frozen=True)
class Position:
    """How far a stream is: where its block begins, and how many windows of the block are out."""

    turn: int = 0  # the unit that is read: its number in the order, counted over all epochs
    row: int = 0  # of the unit, where the block begins
    documents: int = 0  # of the epoch that lie before it
    n_bytes: int = 0  # of their text
    windows: int = 0
    skipped: dict[str, int] = field(default_factory=dict)  # rows before the block that gave no document, by reason

    def begun(self) -> "Position":
        """The same before any window of the block is out."""
        return replace(self, windows=0)


@dataclass(frozen=True)
class Recipe:
    """What the streams of a run have in common."""

    source: Source
    split: str
    reader: Reader
    encoder: Encoder
    packing: Packing
    seed: int
    shuffle: bool
    buffer: int  # documents in a block
    bad_documents: str  # stop | skip
    max_documents: int | None = None  # of an epoch
    max_bytes: int | None = None
    check: Callable[[HeldShards], None] = field(default=lambda held: None)  # raises UserError for tokens of no use

    @property
    def is_capped(self) -> bool:
        """Whether an epoch is the beginning of the source: then that is what is read, in order."""
        return self.max_documents is not None or self.max_bytes is not None


class Stream:
    """One of `streams` that together give every document of the split once in each epoch."""

    def __init__(self, recipe: Recipe, number: int, streams: int, position: Position = Position()) -> None:
        """number: from 0. position: of such a stream (one of as many), to go on from."""
        assert 0 <= number < streams
        self.recipe, self.number, self.streams = recipe, number, streams
        self.by_units = recipe.source.units >= UNITS_EACH * streams and not recipe.is_capped
        self.order = Order(recipe.source.units, recipe.seed, recipe.shuffle and not recipe.is_capped, of="units")
        self.position = position
        self.bad = BadDocuments("skip", counts=Counter(position.skipped))  # what gave no document
        self._after = position.begun()
        self._walk = self._documents(position)
        self._index: WindowIndex | None = None
        self._mixed = np.empty(0, np.int64)

    def take(self, n: int) -> Windows:
        """The next n windows. Their places are not set.

        Raises UserError where a document is bad and that stops the run, or where there is nothing to read."""
        taken = []
        while n:
            index = self._block() if self._index is None else self._index
            first = self.position.windows
            last = min(first + n, len(self._mixed))
            if last > first:
                taken.append(index.gather(self._mixed[first:last]))
                n -= last - first
                self.position = replace(self.position, windows=last)
            if last == len(self._mixed):
                self.position, self._index = self._after, None
        return taken[0] if len(taken) == 1 else together(taken)

    def _block(self) -> WindowIndex:
        """Reads the documents that follow, until they give windows."""
        epochs_without = 0
        while True:
            begun, pieces, is_end = self._after, [], False
            n_bytes = 0
            for after, piece in self._walk:
                self._after, is_end = after, piece is None
                if piece is not None:
                    pieces.append(piece)
                    n_bytes += piece.n_bytes
                if is_end or len(pieces) == self.recipe.buffer or n_bytes >= BLOCK_BYTES:
                    break
            index = self._windows_of(pieces) if pieces else None
            self._after = replace(self._after, skipped=dict(self.bad.counts))
            if index is not None and len(index):
                if begun != self.position.begun():
                    self.position = begun  # what gave no window is behind us
                of = f"block {begun.turn}/{begun.row} of {self.number}"
                order = Order(len(index), self.recipe.seed, self.recipe.shuffle, of=of)
                self._index, self._mixed = index, order.at(np.arange(len(index)))
                return index
            epochs_without += is_end
            if epochs_without > 1:
                raise UserError(
                    f"data.tokens=on_the_fly: reader {self.number + 1} of {self.streams} finds nothing to train on in "
                    f"the whole split '{self.recipe.split}'; use fewer workers (data.num_workers) or devices"
                )

    def _windows_of(self, pieces: Sequence[Piece]) -> WindowIndex:
        recipe = self.recipe
        documents = recipe.encoder(in_columns(pieces), self._where)
        for one in documents.skipped:
            self.bad.add(self._where(one.address), one.reason, one.detail)
        held = HeldShards(documents, "documents read on the fly", kind=recipe.encoder.layout.kind)
        recipe.check(held)
        return WindowIndex(held, recipe.packing, keep=False)

    def _documents(self, at: Position) -> Iterator[tuple[Position, Piece | None]]:
        """This stream's documents from a position on, with the position after each; None at the end of an epoch."""
        recipe, source = self.recipe, self.recipe.source
        low, high = source.shares[recipe.split]
        turn, row, count, n_bytes = at.turn, at.row, at.documents, at.n_bytes
        while True:
            epoch = turn // source.units
            if not self.by_units or turn % self.streams == self.number:
                unit = int(self.order.at(np.array(turn)))
                for number, record in source.rows(unit, row):
                    if (low, high) != (0.0, 1.0) and not low <= source.place(unit, number) < high:
                        continue
                    found = recipe.reader.read(record)
                    if isinstance(found, Bad):
                        self._count(found, unit, number, record.where)
                        continue
                    if self._is_full(count + 1, n_bytes + found[1]):
                        turn = (epoch + 1) * source.units - 1
                        break
                    count, n_bytes = count + 1, n_bytes + found[1]
                    if self.by_units or (count - 1) % self.streams == self.number:
                        piece = Piece(address_of(unit, number), *found)
                        yield Position(turn, number + 1, count, n_bytes), piece
            turn, row = turn + 1, 0
            if turn // source.units > epoch:
                count = n_bytes = 0
                yield Position(turn), None

    def _is_full(self, documents: int, n_bytes: int) -> bool:
        recipe = self.recipe
        too_many = recipe.max_documents is not None and documents > recipe.max_documents
        return too_many or (recipe.max_bytes is not None and n_bytes > recipe.max_bytes)

    def _count(self, bad: Bad, unit: int, row: int, where: str) -> None:
        """Notes a row without a document; where all streams read all rows one of them does. May stop the run."""
        if bad.reason != EMPTY and self.recipe.bad_documents == "stop":
            BadDocuments("stop").add(where or self.recipe.source.where(unit, row), *bad)
        if not self.by_units and (unit + row) % self.streams != self.number:
            return
        known = self.bad.wants_place(bad.reason)
        self.bad.add(where or (self.recipe.source.where(unit, row) if known else ""), *bad)

    def _where(self, address: int) -> str:
        return self.recipe.source.where(unit_of(address), address - address_of(unit_of(address)))


def goes_on(positions: list[dict[str, Any]], streams: int) -> list[Position]:
    """Positions of all streams of a run that was stopped -> those of as many, or of another number of them.

    As many go on where they were. Of another number all begin where the slowest was: what lies before that has been
    read by all, so nothing is left out; what the others had read beyond it comes a second time."""
    before = [Position(**position) for position in positions]
    if len(before) == streams:
        return before
    slowest = min(before, key=lambda position: (position.turn, position.row)).begun()
    counts = sum((Counter(position.skipped) for position in before), Counter())
    return [replace(slowest, skipped={} if number else dict(counts)) for number in range(streams)]


def together(parts: list[Windows]) -> Windows:
    """Windows of several blocks, one after the other."""
    return Windows(*(None if values[0] is None else np.concatenate(values) for values in zip(*parts, strict=True)))
