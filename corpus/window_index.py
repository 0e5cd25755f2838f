"""Shards and how they are cut -> the windows of a split, by number, computed when they are read."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpus.packing import Counts, Packing, Windows, extent, first_tokens, load_index, ranges, sides
from corpus.shards import Shard, ShardSet
from utils.messages import UserError


class WindowIndex:
    """All windows of a split: how many there are, and any of them by number."""

    def __init__(self, shards: ShardSet, packing: Packing, fallback: Path | None = None, keep: bool = True) -> None:
        """fallback: folder for the index where that of the shards cannot be written. keep: whether it is written.

        Raises UserError where packing none meets a document that does not fit."""
        self.shards, self.packing, self.fallback = shards, packing, fallback
        self.from_prompts = packing.pairs and shards.kind != "pairs"
        self.with_spans = shards.kind in ("prompt_response", "messages")
        self._runs: dict[tuple[str, int], list[np.ndarray]] = {}
        if packing.packing == "full":
            self.counts = self._count_full()
            self._whole = None if self.with_spans or packing.document_masking else WholeWindows(shards, packing)
            return
        indices = [load_index(shard, packing, self.from_prompts, fallback, keep) for shard in shards.shards]
        self.cuts = [cuts for cuts, _ in indices]
        self.counts = sum((counts for _, counts in indices), Counts())
        self.first_window = np.cumsum([0, *(counts.windows for _, counts in indices)])
        if packing.packing == "none" and self.counts.too_long:
            raise UserError(
                f"data.packing=none: {self.counts.too_long} of {shards.n_documents} documents in {shards.directory} "
                f"do not fit into data.max_seq_len={packing.max_seq_len} (the longest has "
                f"{self.counts.longest} tokens); "
                f"raise data.max_seq_len, or use packing truncate" + ("" if packing.pairs else " or partial")
            )

    def __len__(self) -> int:
        return self.counts.windows

    def __reduce__(self) -> tuple:
        """Worker processes map the files again instead of being sent their contents."""
        return WindowIndex, (self.shards, self.packing, self.fallback)

    def with_documents(self) -> "WindowIndex":
        """The same windows, which say what documents they hold; for looking at them (`scored` may change)."""
        twin = copy(self)
        twin.packing, twin._whole = replace(self.packing, document_masking=True), None
        return twin

    def gather(self, indices: np.ndarray, places: np.ndarray | None = None) -> Windows:
        """indices: (B,) windows of this split, any number of them at once. places: (B,) in the order; by default the
        indices. What is the same for all windows may be one row seen B times, which cannot be written to."""
        indices = np.asarray(indices, np.int64)
        places = (indices if places is None else np.asarray(places)).astype(np.uint64)
        packing = self.packing
        if packing.packing == "full":
            if self._whole is not None and (found := self._whole.gather(indices)) is not None:
                return Windows(*found, places)
            text = self._full(indices)
        elif packing.packing == "best_fit":
            text, target = self._put_together(indices)
        else:
            text, target = self._by_document(indices)
        windows = self._edged(text, places)
        if not packing.pairs:
            return windows
        return windows._replace(
            scored=np.zeros_like(windows.scored), target_tokens=target.tokens, target_lengths=target.lengths,
            target_documents=target.documents if packing.document_masking else None,
        )  # fmt: skip

    def _edged(self, text: "_Text", places: np.ndarray) -> Windows:
        """Puts BOS and EOS around the text."""
        packing, (tokens, lengths, scored, documents) = self.packing, text
        before, after = int(packing.begin is not None), int(packing.end is not None)
        if before or after:
            tokens, scored = (np.pad(values, ((0, 0), (before, after))) for values in (tokens, scored))
            if before:
                tokens[:, 0] = packing.begin
            if after:
                tokens[np.arange(len(tokens)), lengths + before] = packing.end
            lengths = lengths + before + after
        if packing.document_masking:
            documents = np.pad(documents, ((0, 0), (before, after)), mode="edge")
        return Windows(tokens, lengths, scored, places, documents=documents if packing.document_masking else None)

    # Stretches of the stream of all documents: full, partial, truncate, none

    def _count_full(self) -> Counts:
        packing, shards = self.packing, self.shards
        n = shards.n_tokens
        windows = int(packing.windows_of(np.array([n]))[0])
        text = n + (windows - 1) * packing.shared if windows else 0
        edges = packing.row - packing.room
        scorable = sum(shard.record.scored_tokens for shard in shards.shards)
        lost = 0  # what should be scored, but has nothing before it
        if packing.ahead and n:
            zero = np.zeros(1, np.int64)
            first = int(not self.with_spans or self._in_spans(zero, zero + 1, 1)[0, 0])
            if packing.document_masking:
                lost = sum(first_tokens(shard) for shard in shards.shards) - (first if packing.begin is not None else 0)
            else:
                lost = first * packing.first_scored
        return Counts(windows, text + windows * (edges - packing.ahead), scorable - lost, lost)

    def _full(self, indices: np.ndarray) -> "_Text":
        packing = self.packing
        start = indices * packing.stride
        length = np.minimum(packing.room, self.shards.n_tokens - start)
        text = self._stretches(start, length, packing.unscored(start))
        if not packing.document_masking:
            return text
        begins = self._beginnings(start, length, packing.room)
        scored = text.scored
        if packing.ahead:  # only the split's first document is begun from BOS
            scored &= ~begins | (start[:, None] + np.arange(packing.room) == 0)
        begins[:, 0] = False
        return text._replace(documents=begins.cumsum(1))

    def _by_document(self, indices: np.ndarray) -> tuple["_Text", "_Text"]:
        """-> the text, and of pairs their targets"""
        packing, n = self.packing, len(indices)
        start, length, unscored, target_start, target_length = np.zeros((5, n), np.int64)
        for number, rows, local in self._by_shard(indices):
            shard, cuts = self.shards.shards[number], self.cuts[number]
            document, begin = cuts.document[local], cuts.start[local].astype(np.int64)
            first, of_document = extent(shard.offsets, document)
            start[rows] = self.shards.first_token[number] + first + begin
            unscored[rows] = packing.unscored(begin)
            if packing.pairs:
                base = self.shards.first_token if self.from_prompts else self.shards.first_target
                of_document, first, of_target = sides(shard, document, self.from_prompts)
                target_start[rows] = base[number] + first
                target_length[rows] = np.minimum(packing.max_seq_len, of_target)
            length[rows] = np.minimum(packing.room, of_document - begin)
        text = self._stretches(start, length, unscored)
        if packing.document_masking:
            text = text._replace(documents=np.zeros_like(text.tokens))
        if not packing.pairs:
            return text, text
        name = "tokens" if self.from_prompts else "target_tokens"
        tokens = self._take(name, target_start, target_length, packing.max_seq_len)
        return text, _Text(tokens, target_length, tokens > 0, np.zeros_like(tokens))

    def _by_shard(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """-> of each shard touched: its number, the rows it has, and which of its windows they are"""
        for number, rows in grouped(np.searchsorted(self.first_window, indices, side="right") - 1):
            yield number, rows, indices[rows] - self.first_window[number]

    def _stretches(self, start: np.ndarray, length: np.ndarray, unscored: np.ndarray) -> "_Text":
        room = self.packing.room
        places = np.arange(room)
        scored = (places >= unscored[:, None]) & (places < length[:, None])
        if self.with_spans:
            scored &= self._in_spans(start, length, room)
        return _Text(self._take("tokens", start, length, room), length, scored, None)

    def _take(self, name: str, start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
        """Tokens from `start` on, `length` of them, of the stream of all shards. -> (B, width) int64, filled with 0"""
        firsts = self.shards.first_target if name == "target_tokens" else self.shards.first_token
        if (name, width) not in self._runs:
            self._runs[name, width] = [runs(getattr(shard, name), width) for shard in self.shards.shards]
        of_shards = self._runs[name, width]
        taken = np.empty(len(start), of_shards[0].dtype)
        in_one = np.ones(len(start), bool)
        for number, rows in grouped(np.searchsorted(firsts[1:-1], start, side="right")):
            local = start[rows] - firsts[number]
            if local.max() >= len(of_shards[number]):
                in_one[rows] = local < len(of_shards[number])
                rows, local = rows[in_one[rows]], local[in_one[rows]]
            taken[rows] = of_shards[number][local]
        tokens = as_rows(taken, getattr(self.shards.shards[0], name).dtype).astype(np.int64)
        if not in_one.all():
            rest = np.flatnonzero(~in_one)
            tokens[rest] = self._take_across(name, start[rest], length[rest], width)
        if length.min(initial=width) < width:
            tokens[np.arange(width) >= length[:, None]] = 0
        return tokens

    def _take_across(self, name: str, start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
        """The same where a shard ends before `width` tokens."""
        tokens = np.zeros((len(start), width), np.int64)
        firsts = self.shards.first_target if name == "target_tokens" else self.shards.first_token
        for number, rows in _touched(firsts, start, start + length):
            values = getattr(self.shards.shards[number], name)
            places = start[rows, None] - firsts[number] + np.arange(width)
            row, column = np.nonzero((places >= 0) & (places < len(values)) & (np.arange(width) < length[rows, None]))
            tokens[rows[row], column] = values[places[row, column]]
        return tokens

    def _beginnings(self, start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
        """Which places of rows hold the first token of a document. -> (B, width) bool"""
        begins = np.zeros((len(start), width), bool)
        firsts = self.shards.first_token
        for number, rows in _touched(firsts, start, start + length):
            offsets = self.shards.shards[number].offsets
            begin = start[rows] - firsts[number]
            low = np.searchsorted(offsets, begin, side="left")
            owner, document = ranges(low, np.searchsorted(offsets, begin + length[rows], side="left") - low)
            begins[rows[owner], offsets[document] - begin[owner]] = True
        return begins

    def _in_spans(self, start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
        """Which places of rows lie in spans that are scored. -> (B, width) bool"""
        steps = np.zeros((len(start), width + 1), np.int32)
        firsts = self.shards.first_token
        for number, rows in _touched(firsts, start, start + length):
            begin = start[rows] - firsts[number]
            _step_at_spans(steps, self.shards.shards[number], begin, length[rows], rows, np.zeros_like(rows))
        return steps.cumsum(1)[:, :width] > 0

    # Pieces of documents side by side: best_fit

    def _put_together(self, indices: np.ndarray) -> tuple["_Text", "_Text"]:
        """-> the text, and of pairs their targets"""
        packing, n = self.packing, len(indices)
        text = _Text.empty(n, packing.room)
        target = _Text.empty(n, packing.max_seq_len) if packing.pairs else text
        steps = np.zeros((n, packing.room + 1), np.int32) if self.with_spans else None
        for number, rows, local in self._by_shard(indices):
            shard, cuts = self.shards.shards[number], self.cuts[number]
            low = cuts.first[local]
            owner, piece = ranges(low, cuts.first[local + 1] - low)
            document, start, order = cuts.document[piece], cuts.start[piece].astype(np.int64), piece - low[owner]
            if packing.pairs:
                length, begin, of_target = sides(shard, document, self.from_prompts)
                values = shard.tokens if self.from_prompts else shard.target_tokens
                _lay(target, values, begin, np.minimum(packing.max_seq_len, of_target), rows[owner], order)
                first = shard.offsets[document]
            else:
                first, length = extent(shard.offsets, document)
            length = np.minimum(packing.room, length - start)
            unscored = packing.unscored(start, order == 0)
            column = _lay(text, shard.tokens, first + start, length, rows[owner], order, unscored)
            if steps is not None:
                _step_at_spans(steps, shard, first + start, length, rows[owner], column)
        if steps is not None:
            text.scored[steps.cumsum(1)[:, :-1] == 0] = False
        for side in (text, target):
            np.maximum.accumulate(side.documents, axis=1, out=side.documents)
        return text, target


class WholeWindows:
    """The windows of packing full that lie in one shard and are like all others: one gather for each shard touched."""

    def __init__(self, shards: ShardSet, packing: Packing) -> None:
        self.packing, self.dtype = packing, shards.shards[0].tokens.dtype
        stride = packing.stride
        # What the first window scores is what others score, unless they overlap.
        first = np.maximum(-(-shards.first_token[:-1] // stride), packing.shared != packing.first_scored)
        phase = first * stride - shards.first_token[:-1]
        self.runs = [
            runs(shard.tokens, packing.room, int(at), stride) for shard, at in zip(shards.shards, phase, strict=True)
        ]
        # Windows 2 k of these numbers, …, 2 k + 1 lie in shard k, those between in none.
        self.bounds = np.stack([first, first + [len(of_one) for of_one in self.runs]], axis=1).reshape(-1)
        self.scored = np.zeros(packing.row, bool)
        begin = int(packing.begin is not None)
        self.scored[begin + packing.shared : begin + packing.room] = True
        self.same = np.empty(0, np.int64), np.empty((0, packing.row), bool)  # lengths and scored, of so many rows

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """indices: (B,) -> tokens (B, R) int64, lengths (B,), scored (B, R); None where a window is not such a one."""
        if len(self.runs) == 1 and not self.bounds[0]:
            try:
                taken = self.runs[0][indices]
            except IndexError:
                return None
        else:
            taken = self._from_shards(indices)
            if taken is None:
                return None
        n, packing = len(indices), self.packing
        text = as_rows(taken, self.dtype)
        if packing.room == packing.row:
            tokens = text.astype(np.int64)
        else:
            tokens = np.empty((n, packing.row), np.int64)
            begin = int(packing.begin is not None)
            tokens[:, begin : begin + packing.room] = text
            if packing.begin is not None:
                tokens[:, 0] = packing.begin
            if packing.end is not None:
                tokens[:, -1] = packing.end
        if len(self.same[0]) != n:
            lengths = np.broadcast_to(np.int64(packing.row), n)
            self.same = lengths, np.broadcast_to(self.scored, (n, packing.row))
        return tokens, *self.same

    def _from_shards(self, indices: np.ndarray) -> np.ndarray | None:
        where = self.bounds.searchsorted(indices, side="right") - 1
        if (where & 1).any():
            return None
        taken = np.empty(len(indices), self.runs[0].dtype)
        for number, rows in grouped(where):
            taken[rows] = self.runs[number >> 1][indices[rows] - self.bounds[number]]
        return taken


class _Text(NamedTuple):
    """Rows of text, before what stands around it. All of B rows and `width` places, but lengths."""

    tokens: np.ndarray
    lengths: np.ndarray
    scored: np.ndarray
    documents: np.ndarray | None

    @classmethod
    def empty(cls, n: int, width: int) -> "_Text":
        shape = (n, width)
        return cls(np.zeros(shape, np.int64), np.zeros(n, np.int64), np.zeros(shape, bool), np.zeros(shape, np.int64))


def packing_shares(index: WindowIndex) -> dict[str, float]:
    """-> padding: of all places of rows filled to max_seq_len, those that hold nothing; truncated: of all documents,
    those that no window holds whole; unscored: of all tokens that should be scored, those that are not."""
    counts, packing, shards = index.counts, index.packing, index.shards
    places = len(index) * packing.max_seq_len * (2 if packing.pairs else 1)
    cut = counts.too_long
    if packing.packing == "full":
        for shard, first in zip(shards.shards, shards.first_token, strict=False):
            start, stop = first + shard.offsets[:-1], first + shard.offsets[1:]
            last = np.minimum(start // packing.stride, len(index) - 1)  # the last window that holds its first token
            cut += int((stop > last * packing.stride + packing.room).sum())
    scorable = counts.scored_tokens + counts.unscored_tokens
    return {
        "padding": 1 - counts.input_tokens / max(1, places),
        "truncated": cut / max(1, shards.n_documents),
        "unscored": counts.unscored_tokens / max(1, scorable),
    }


def runs(values: np.ndarray, width: int, first: int = 0, step: int = 1) -> np.ndarray:
    """Every run of `width` tokens that begins at first, first + step, …, each as one item of bytes: looked at, not
    copied. NumPy gathers such items twice as fast as rows of numbers."""
    item = np.dtype((np.void, width * values.itemsize))
    n = max(0, (len(values) - width - first) // step + 1)
    if not n:
        return np.empty(0, item)
    return np.ndarray(n, item, buffer=values, offset=first * values.itemsize, strides=(step * values.itemsize,))


def as_rows(taken: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Items of bytes -> the tokens in them, (B, width)"""
    return taken.view(dtype).reshape(len(taken), taken.itemsize // dtype.itemsize)


def grouped(numbers: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """-> each number that there is, and where it stands"""
    order = numbers.argsort(kind="stable")
    ordered = numbers[order]
    cuts = [0, *((ordered[1:] != ordered[:-1]).nonzero()[0] + 1).tolist(), len(numbers)]
    return [(int(ordered[a]), order[a:b]) for a, b in zip(cuts, cuts[1:], strict=False) if a < b]


def _touched(firsts: np.ndarray, start: np.ndarray, stop: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Shards that stretches lie in. -> pairs of a shard's number and the rows that touch it"""
    low = np.searchsorted(firsts, start, side="right") - 1
    high = np.searchsorted(firsts, stop, side="left") - 1  # of the last token
    owner, number = ranges(low, np.maximum(high - low + 1, 0))
    return [(number, owner[rows]) for number, rows in grouped(number)]


def _lay(
    text: _Text, values: np.ndarray, begin: np.ndarray, length: np.ndarray, row: np.ndarray, order: np.ndarray,
    unscored: np.ndarray | int = 0,
) -> np.ndarray:  # fmt: skip
    """Lays pieces of one shard's `values` into rows, one behind the other. All (P,); order: which of its row each is.

    -> the column where each begins"""
    width = text.tokens.shape[1]
    before = np.cumsum(length) - length
    of_row = np.maximum.accumulate(np.where(order == 0, np.arange(len(order)), 0))  # the first piece of the same row
    column = before - before[of_row]
    owner, within = ranges(np.zeros(len(length), np.int64), length)
    place = (row * width + column)[owner] + within
    text.tokens.reshape(-1)[place] = values[begin[owner] + within]
    text.scored.reshape(-1)[place] = within >= np.broadcast_to(unscored, len(length))[owner]
    text.documents.reshape(-1)[place] = order[owner]
    np.add.at(text.lengths, row, length)
    return column


def _step_at_spans(
    steps: np.ndarray, shard: Shard, begin: np.ndarray, length: np.ndarray, row: np.ndarray, column: np.ndarray
) -> None:
    """Adds 1 to `steps` (B, width + 1) where a span begins that is scored, -1 where it ends; begin, length: stretches
    of the shard, (P,), that lie in rows from columns on."""
    if shard.scored is None:
        return
    low = np.maximum(np.searchsorted(shard.offsets, begin, side="right") - 1, 0)
    high = np.minimum(np.searchsorted(shard.offsets, begin + length, side="left"), shard.n_documents)
    owner, document = ranges(low, np.maximum(high - low, 0))
    of_span, span = ranges(shard.scored_offsets[document], np.diff(shard.scored_offsets)[document])
    owner = owner[of_span]
    places = shard.scored[span] + (shard.offsets[document[of_span]] - begin[owner])[:, None]
    places = places.clip(0, length[owner, None]) + column[owner, None]
    np.add.at(steps, (row[owner], places[:, 0]), 1)
    np.add.at(steps, (row[owner], places[:, 1]), -1)
