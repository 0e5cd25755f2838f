"""Shards and how they are cut -> the windows of a split, by number, computed when they are read."""

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpus.one_array import OneArray, as_rows, runs
from corpus.packing import Counts, Packing, Windows, first_tokens, load_index, ranges, sides
from corpus.shards import Shard, ShardSet
from corpus.whole_windows import WholeWindows
from utils.messages import UserError


class WindowIndex:
    """All windows of a split: how many there are, and any of them by number."""

    def __init__(self, shards: ShardSet, packing: Packing, fallback: Path | None = None, keep: bool = True) -> None:
        """fallback: folder for the index where that of the shards cannot be written. keep: whether it is written.

        Raises UserError where packing none meets a document that does not fit."""
        self.shards, self.packing, self.made_with = shards, packing, (fallback, keep)
        self.from_prompts = packing.pairs and shards.kind != "pairs"
        self.with_spans = shards.kind in ("prompt_response", "messages")
        of_all = {"tokens": [shard.tokens for shard in shards.shards]}
        if shards.kind == "pairs":  # a shard without documents has no targets
            of_all["target_tokens"] = [
                shard.tokens[:0] if shard.target_tokens is None else shard.target_tokens for shard in shards.shards
            ]
        self._tokens = {name: OneArray(parts) for name, parts in of_all.items()}
        if packing.packing == "full":
            self.counts = self._count_full()
            self._whole = None if self.with_spans or packing.document_masking else WholeWindows(shards, packing)
            return
        indices = [load_index(shard, packing, self.from_prompts, fallback, keep) for shard in shards.shards]
        document, start, first = zip(*(cuts for cuts, _ in indices), strict=True)
        self._offsets = OneArray([shard.offsets for shard in shards.shards])
        self._document, self._start = OneArray(list(document)), OneArray(list(start))
        self._first = None if first[0] is None else OneArray(list(first))
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
        return WindowIndex, (self.shards, self.packing, *self.made_with)

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
        else:
            text, target = self._of_documents(indices)
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

    # full: stretches of the stream of all documents

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
            first = int(not self.with_spans or self._in_spans(*self._parts(zero, zero + 1), np.zeros((1, 1)))[0, 0])
            if packing.document_masking:
                lost = sum(first_tokens(shard) for shard in shards.shards) - (first if packing.begin is not None else 0)
            else:
                lost = first * packing.first_scored
        return Counts(windows, text + windows * (edges - packing.ahead), scorable - lost, lost)

    def _full(self, indices: np.ndarray) -> "_Text":
        packing = self.packing
        start = indices * packing.stride
        length = np.minimum(packing.room, self.shards.n_tokens - start)
        text = self._stretches("tokens", start, length, packing.room, packing.unscored(start))
        if self.with_spans:
            text.scored[~self._in_spans(*self._parts(start, length), text.scored)] = False
        if not packing.document_masking:
            return text
        begins = self._beginnings(*self._parts(start, length), text.scored)
        begins[start == 0, 0] = False  # the first document of the split, the only one that is begun from BOS
        if packing.ahead:
            text.scored[begins] = False
        begins[:, 0] = False
        return text._replace(documents=begins.cumsum(1))

    def _parts(self, start: np.ndarray, length: np.ndarray) -> "_Pieces":
        """Stretches of the stream -> the shards that they touch. Where one begins in the shard before, `begin` < 0."""
        firsts = self.shards.first_token
        row, number = _touched(firsts, start, start + length)
        return _Pieces(number, start[row] - firsts[number], length[row], row, np.zeros_like(row))

    def _beginnings(
        self, number: np.ndarray, begin: np.ndarray, length: np.ndarray, row: np.ndarray, column: np.ndarray,
        like: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Which places of rows hold the first token of a document. -> bool, of the shape of `like`"""
        begins = np.zeros(like.shape, bool)
        for one, where in grouped(number):
            offsets, at = self.shards.shards[one].offsets, begin[where]
            low = offsets.searchsorted(at, side="left")
            owner, document = ranges(low, offsets.searchsorted(at + length[where], side="left") - low)
            begins[row[where][owner], offsets[document] - at[owner] + column[where][owner]] = True
        return begins

    def _in_spans(
        self, number: np.ndarray, begin: np.ndarray, length: np.ndarray, row: np.ndarray, column: np.ndarray,
        like: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Which places of rows lie in spans that are scored. -> bool, of the shape of `like`"""
        steps = np.zeros((len(like), like.shape[1] + 1), np.int32)
        for one, where in grouped(number):
            _step_at_spans(steps, self.shards.shards[one], begin[where], length[where], row[where], column[where])
        return steps.cumsum(1)[:, :-1] > 0

    def _stretches(self, name: str, start: np.ndarray, length: np.ndarray, width: int, unscored: np.ndarray) -> "_Text":
        """Tokens from `start` on, `length` of them, of the stream of all shards, a stretch to a row. All (B,)"""
        firsts, values, places = self._firsts(name), self._tokens[name], np.arange(width)
        number = firsts[1:-1].searchsorted(start, side="right")
        place = start + (values.first - firsts[:-1])[number]
        in_one = start + width <= firsts[number + 1]
        whole, dtype = runs(values.values, width), values.values.dtype
        if in_one.all():
            tokens = as_rows(whole[place], dtype).astype(np.int64)
        else:
            tokens = np.zeros((len(start), width), np.int64)
            tokens[in_one] = as_rows(whole[place[in_one]], dtype)
            rest = np.flatnonzero(~in_one)
            owner, number = _touched(firsts, start[rest], start[rest] + length[rest])
            for one, where in grouped(number):
                rows, part = rest[owner[where]], values.parts[one]
                inside = start[rows, None] - firsts[one] + places
                row, column = np.nonzero((inside >= 0) & (inside < len(part)) & (places < length[rows, None]))
                tokens[rows[row], column] = part[inside[row, column]]
        scored = places >= unscored[:, None]
        if length.min(initial=width) < width:
            real = places < length[:, None]
            tokens *= real
            scored &= real
        return _Text(tokens, length, scored, None)

    def _firsts(self, name: str) -> np.ndarray:
        """Where in the stream of all shards each begins."""
        return self.shards.first_target if name == "target_tokens" else self.shards.first_token

    # The others: pieces of documents, one in a window, or side by side

    def _of_documents(self, indices: np.ndarray) -> tuple["_Text", "_Text"]:
        """-> the text, and of pairs their targets"""
        packing, n = self.packing, len(indices)
        number = self.first_window.searchsorted(indices, side="right") - 1
        piece, row, order = indices - self.first_window[number], np.arange(n), np.zeros(n, np.int64)
        if self._first is not None:
            low = self._first.at(number, piece)
            row, piece = ranges(low, self._first.at(number, piece + 1) - low)
            number, order = number[row], piece - low[row]
        document, start = self._document.at(number, piece), self._start.at(number, piece).astype(np.int64)
        begin = self._offsets.at(number, document)
        length = self._offsets.at(number, document + 1) - begin
        unscored = packing.unscored(start, order == 0)
        if not packing.pairs:
            length = np.minimum(packing.room, length - start)
            text = self._laid("tokens", _Pieces(number, begin + start, length, row, order), n, packing.room, unscored)
            return text, text
        source, target_begin, target = np.empty((3, len(number)), np.int64)
        for one, where in grouped(number):
            shard = self.shards.shards[one]
            source[where], target_begin[where], target[where] = sides(shard, document[where], self.from_prompts)
        source, target = np.minimum(packing.room, source), np.minimum(packing.max_seq_len, target)
        sources = _Pieces(number, begin, source, row, order)
        targets = _Pieces(number, target_begin, target, row, order)
        name = "tokens" if self.from_prompts else "target_tokens"
        return (
            self._laid("tokens", sources, n, packing.room, unscored),
            self._laid(name, targets, n, packing.max_seq_len, np.zeros_like(unscored)),
        )

    def _laid(self, name: str, pieces: "_Pieces", n: int, width: int, unscored: np.ndarray) -> "_Text":
        """Pieces of documents -> n rows. unscored: (P,) tokens at the beginning of each that are not scored"""
        number, begin, length, row, order = pieces
        column = np.zeros_like(row)
        if self._first is None:
            text = self._stretches(name, self._firsts(name)[number] + begin, length, width, unscored)
            if self.packing.document_masking:
                text = text._replace(documents=np.zeros_like(text.tokens))
        else:
            text, column = _side_by_side(self._tokens[name], pieces, n, width, unscored)
        if self.with_spans and not self.packing.pairs:
            text.scored[~self._in_spans(number, begin, length, row, column, text.scored)] = False
        return text


class _Text(NamedTuple):
    """Rows of text, before what stands around it."""

    tokens: np.ndarray  # (B, width) int64
    lengths: np.ndarray  # (B,) int64
    scored: np.ndarray  # (B, width) bool
    documents: np.ndarray | None  # (B, width) int64


class _Pieces(NamedTuple):
    """What rows are made of. All (P,) int64, row after row."""

    number: np.ndarray  # of the shard
    begin: np.ndarray  # in the shard
    length: np.ndarray
    row: np.ndarray
    order: np.ndarray  # which piece of its row it is, counted from 0


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


def grouped(numbers: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """-> each number that there is, and where it stands"""
    order = numbers.argsort(kind="stable")
    ordered = numbers[order]
    cuts = [0, *((ordered[1:] != ordered[:-1]).nonzero()[0] + 1).tolist(), len(numbers)]
    return [(int(ordered[a]), order[a:b]) for a, b in zip(cuts, cuts[1:], strict=False) if a < b]


def _touched(firsts: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which shards stretches lie in. -> stretches, several times where they touch several shards, and those shards"""
    low = firsts.searchsorted(start, side="right") - 1
    high = firsts.searchsorted(stop, side="left") - 1  # of the last token
    return ranges(low, np.maximum(high - low + 1, 0))


def _side_by_side(
    values: OneArray, pieces: _Pieces, n: int, width: int, unscored: np.ndarray
) -> tuple[_Text, np.ndarray]:
    """Lays pieces one behind the other into n rows. -> text, the column that each begins in

    A row's filling counts as a piece of its own, so that places of all rows are one run of numbers, shifted here and
    there."""
    number, begin, length, row, order = pieces
    last = np.cumsum(np.bincount(row, minlength=n)) - 1  # piece of each row
    lengths = np.bincount(row, length, n).astype(np.int64)
    at, filling = np.arange(len(row)) + row, last + 1 + np.arange(n)  # pieces and fillings among both
    sizes = np.empty(len(row) + n, np.int64)
    sizes[at], sizes[filling] = length, width - lengths
    flat = np.cumsum(sizes) - sizes
    shift, documents = np.zeros_like(sizes), np.empty_like(sizes)
    shift[at] = values.first[number] + begin - flat[at]
    documents[at], documents[filling] = order, order[last]
    real = np.arange(width) < lengths[:, None]
    places = (np.arange(n * width) + np.repeat(shift, sizes)).reshape(n, width)
    places *= real  # nothing is looked at that may be no token
    tokens = values.values[places].astype(np.int64)
    tokens *= real
    scored = real.copy()
    for i in range(int(unscored.max(initial=0))):
        scored.reshape(-1)[flat[at][unscored > i] + i] = False
    return _Text(tokens, lengths, scored, np.repeat(documents, sizes).reshape(n, width)), flat[at] - row * width


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
    of_span, span = ranges(
        shard.scored_offsets[document], shard.scored_offsets[document + 1] - shard.scored_offsets[document]
    )
    owner = owner[of_span]
    places = shard.scored[span] + (shard.offsets[document[of_span]] - begin[owner])[:, None]
    places = places.clip(0, length[owner, None]) + column[owner, None]
    np.add.at(steps, (row[owner], places[:, 0]), 1)
    np.add.at(steps, (row[owner], places[:, 1]), -1)
