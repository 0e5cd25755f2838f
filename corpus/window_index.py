"""Shards and how they are cut -> the windows of a split, by number, computed when they are read."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpus.packing import Counts, Packing, Windows, extent, first_tokens, load_index, ranges, sides
from corpus.shards import ShardSet
from utils.messages import UserError


class WindowIndex:
    """All windows of a split: how many there are, and any of them by number."""

    def __init__(self, shards: ShardSet, packing: Packing, fallback: Path | None = None) -> None:
        """fallback: folder for the index where that of the shards cannot be written.

        Raises UserError where packing none meets a document that does not fit."""
        self.shards, self.packing = shards, packing
        self.from_prompts = packing.pairs and shards.kind != "pairs"
        self.with_spans = shards.kind in ("prompt_response", "messages")
        if packing.packing == "full":
            self.counts = self._count_full()
            return
        indices = [load_index(shard, packing, self.from_prompts, fallback) for shard in shards.shards]
        self.document = [documents for documents, _, _ in indices]
        self.start = [starts for _, starts, _ in indices]
        self.counts = sum((counts for _, _, counts in indices), Counts())
        self.first_window = np.cumsum([0, *(len(documents) for documents in self.document)])
        if packing.packing == "none" and self.counts.too_long:
            raise UserError(
                f"data.packing=none: {self.counts.too_long} of {shards.n_documents} documents in {shards.directory} "
                f"do not fit into data.max_seq_len={packing.max_seq_len} (the longest has "
                f"{self.counts.longest} tokens); "
                f"raise data.max_seq_len, or use packing truncate" + ("" if packing.pairs else " or partial")
            )

    def __len__(self) -> int:
        return self.counts.windows

    def gather(self, indices: np.ndarray, places: np.ndarray | None = None) -> Windows:
        """indices: (B,) windows of this split. places: (B,) in the order; by default the indices."""
        indices = np.asarray(indices, np.int64)
        places = indices if places is None else places
        source, target = self._full(indices) if self.packing.packing == "full" else self._by_document(indices)
        tokens, lengths, scored, documents = self._rows(source)
        windows = Windows(tokens, lengths, scored, np.asarray(places).astype(np.uint64), documents=documents)
        if target is None:
            return windows
        other = "tokens" if self.from_prompts else "target_tokens"
        target_tokens = self._take(other, target.start, target.length, self.packing.max_seq_len)
        target_documents = np.zeros_like(target_tokens) if self.packing.document_masking else None
        return windows._replace(
            target_tokens=target_tokens, target_lengths=target.length, scored=np.zeros_like(scored),
            target_documents=target_documents,
        )  # fmt: skip

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

    def _full(self, indices: np.ndarray) -> tuple["_Rows", None]:
        start = indices * self.packing.stride
        length = np.minimum(self.packing.room, self.shards.n_tokens - start)
        new = np.where(start > 0, self.packing.shared, self.packing.first_scored)
        return _Rows(start, length, new), None

    def _by_document(self, indices: np.ndarray) -> tuple["_Rows", "_Rows | None"]:
        packing, zeros = self.packing, np.zeros(len(indices), np.int64)
        source, target = _Rows(zeros, zeros.copy(), zeros.copy()), _Rows(zeros.copy(), zeros.copy(), zeros)
        which = np.searchsorted(self.first_window, indices, side="right") - 1
        for number in np.unique(which):
            rows = np.flatnonzero(which == number)
            shard, local = self.shards.shards[number], indices[rows] - self.first_window[number]
            documents, starts = self.document[number][local], self.start[number][local].astype(np.int64)
            first, length = extent(shard.offsets, documents)
            source.start[rows] = self.shards.first_token[number] + first + starts
            source.length[rows] = np.minimum(packing.room, length - starts)
            source.new[rows] = np.where(starts > 0, packing.shared, packing.first_scored)
            if packing.pairs:
                base = self.shards.first_token if self.from_prompts else self.shards.first_target
                source.length[rows], begins, lengths = sides(shard, documents, self.from_prompts)
                source.length[rows] = np.minimum(packing.room, source.length[rows])
                target.start[rows] = base[number] + begins
                target.length[rows] = np.minimum(packing.max_seq_len, lengths)
        return source, target if packing.pairs else None

    def _rows(self, rows: "_Rows") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """-> tokens (B, R), lengths (B,), scored (B, R), documents (B, R), the edges put around the text"""
        packing, room = self.packing, self.packing.room
        text = self._take("tokens", rows.start, rows.length, room)
        places = np.arange(room)
        scored = (places >= rows.new[:, None]) & (places < rows.length[:, None])
        if self.with_spans:
            scored &= self._in_spans(rows.start, rows.length, room)
        lengths, documents = rows.length, None
        if packing.document_masking:
            documents = np.zeros((len(text), room), np.int64)
            if packing.packing == "full":
                begins = self._beginnings(rows.start, rows.length, room)
                if packing.ahead:  # only the split's first document is begun from BOS
                    scored &= ~begins | (rows.start[:, None] + places == 0)
                begins[:, 0] = False
                documents = begins.cumsum(1)
            edges = (int(packing.begin is not None), int(packing.end is not None))
            documents = np.pad(documents, ((0, 0), edges), mode="edge")
        if packing.begin is not None:
            text = np.pad(text, ((0, 0), (1, 0)), constant_values=packing.begin)
            scored = np.pad(scored, ((0, 0), (1, 0)))
            lengths = lengths + 1
        if packing.end is not None:
            text, scored = np.pad(text, ((0, 0), (0, 1))), np.pad(scored, ((0, 0), (0, 1)))
            text[np.arange(len(text)), lengths] = packing.end
            lengths = lengths + 1
        return text, lengths, scored, documents

    def _take(self, name: str, start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
        """Tokens from `start` on, `length` of them, of the stream of all shards. -> (B, width) int64, filled with 0"""
        taken = np.zeros((len(start), width), np.int64)
        firsts = self.shards.first_target if name == "target_tokens" else self.shards.first_token
        for number, rows in _touched(firsts, start, start + length):
            values = getattr(self.shards.shards[number], name)
            places = start[rows, None] - firsts[number] + np.arange(width)
            inside = (places >= 0) & (places < len(values)) & (np.arange(width) < length[rows, None])
            if inside.all():
                taken[rows] = values[places]
            else:
                block = taken[rows]
                block[inside] = values[places[inside]]
                taken[rows] = block
        return taken

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
        steps = np.zeros((len(start), width + 1), np.int32)  # +1 where a span begins, -1 where it ends
        firsts = self.shards.first_token
        for number, rows in _touched(firsts, start, start + length):
            shard = self.shards.shards[number]
            if shard.scored is None:
                continue
            begin, end = start[rows] - firsts[number], start[rows] + length[rows] - firsts[number]
            low = np.maximum(np.searchsorted(shard.offsets, begin, side="right") - 1, 0)
            high = np.minimum(np.searchsorted(shard.offsets, end, side="left"), shard.n_documents)
            owner, document = ranges(low, high - low)
            span_owner, span = ranges(shard.scored_offsets[document], np.diff(shard.scored_offsets)[document])
            places = shard.scored[span] + (shard.offsets[document[span_owner]] - begin[owner[span_owner]])[:, None]
            places = places.clip(0, width)
            row = rows[owner[span_owner]]
            np.add.at(steps, (row, places[:, 0]), 1)
            np.add.at(steps, (row, places[:, 1]), -1)
        return steps.cumsum(1)[:, :width] > 0


class _Rows(NamedTuple):
    """Stretches of a stream. All (B,) int64."""

    start: np.ndarray
    length: np.ndarray
    new: np.ndarray  # places before this one are not scored


def _touched(firsts: np.ndarray, start: np.ndarray, stop: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Shards that stretches lie in. -> pairs of a shard's number and the rows that touch it"""
    low = np.searchsorted(firsts, start, side="right") - 1
    high = np.searchsorted(firsts, stop, side="left") - 1  # of the last token
    numbers = (
        np.unique(np.concatenate([low, high])) if (high - low <= 1).all() else np.arange(low.min(), high.max() + 1)
    )
    chosen = [(int(number), np.flatnonzero((low <= number) & (number <= high))) for number in numbers]
    return [(number, rows) for number, rows in chosen if rows.size]
