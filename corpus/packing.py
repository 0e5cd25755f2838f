"""Documents -> windows: rows of R = max_seq_len + ahead tokens, computed when they are read.

    full      all documents run together          partial   each document is cut by itself
    truncate  the first window of each document    none      a document (or pair) a window, longer ones refused

A stream of n tokens (full: the split, partial: a document) gives max(1, ceil((n - s) / (b - s))) windows: b tokens of a
row are text, and s = overlap + (0 with window_bos, else ahead) are shared by neighbours. What the window before has
scored is not scored again: every token is scored exactly once, except the first of a stream where nothing precedes it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpus.shards import Shard, ShardSet, map_tensors, read_about, write_tensors
from utils.hashing import sha256_json
from utils.messages import UserError


class Windows(NamedTuple):
    """Rows of tokens, filled on the right. B rows of R places."""

    tokens: np.ndarray  # (B, R) int64
    lengths: np.ndarray  # (B,) int64: how many of them are tokens
    scored: (
        np.ndarray
    )  # (B, R) bool: tokens of the text that this window scores (of pairs none: their targets are scored)
    places: np.ndarray  # (B,) uint64: in the order; what chance is drawn from
    target_tokens: np.ndarray | None = None  # (B, max_seq_len) int64: the other side of pairs
    target_lengths: np.ndarray | None = None  # (B,) int64

    def rows(self, chosen: np.ndarray | slice) -> "Windows":
        """Some of the rows."""
        return Windows(*(None if values is None else values[chosen] for values in self))

    def narrowed(self) -> "Windows":
        """Without the places that no row fills."""
        width = int(self.lengths.max(initial=1))
        narrow = self._replace(tokens=self.tokens[:, :width], scored=self.scored[:, :width])
        if self.target_tokens is None:
            return narrow
        return narrow._replace(target_tokens=self.target_tokens[:, : int(self.target_lengths.max(initial=1))])


@dataclass(frozen=True)
class Packing:
    """How windows are cut. begin, end: ids put at the edges of each window (BOS or CLS, EOS or SEP), never scored."""

    max_seq_len: int
    ahead: int = 1
    packing: str = "full"
    overlap: int = 0
    begin: int | None = None
    end: int | None = None
    pairs: bool = False  # source and target, or prompt and response, side by side

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UserError(
                f"data.overlap={self.overlap} leaves no room for new tokens in windows of "
                f"data.max_seq_len={self.max_seq_len}; it can be at most {self.overlap + self.stride - 1}"
            )
        if self.pairs and self.packing not in ("none", "truncate"):
            raise UserError(f"data.packing={self.packing} cannot hold sources and targets; use none or truncate")

    @property
    def row(self) -> int:
        """R: tokens in a row."""
        return self.max_seq_len + self.ahead

    @property
    def room(self) -> int:
        """b: tokens in a row that are text."""
        return self.row - (self.begin is not None) - (self.end is not None)

    @property
    def shared(self) -> int:
        """s: tokens that neighbours share."""
        return self.overlap + (0 if self.begin is not None else self.ahead)

    @property
    def stride(self) -> int:
        """New tokens of a window."""
        return self.room - self.shared

    @property
    def first_scored(self) -> int:
        """Of a stream: 1 where its first token has nothing before it to be predicted from."""
        return min(self.ahead, 1) if self.begin is None else 0

    def windows_of(self, lengths: np.ndarray) -> np.ndarray:
        """Streams of so many tokens -> how many windows each gives, those without a target among them."""
        count = np.maximum(1, -(-(lengths - self.shared) // self.stride))
        return np.where(lengths > self.first_scored, count, 0)


@dataclass
class Counts:
    """What the windows of a shard, or of a split, hold and leave out."""

    windows: int = 0
    input_tokens: int = 0  # fed to the model, without filling: edges and the other side of pairs counted
    scored_tokens: int = 0
    unscored_tokens: int = 0  # that should have been scored, but are cut off or have nothing before them
    left_out: int = 0  # windows (truncate, none: documents) without a target
    too_long: int = 0  # packing none: documents that do not fit
    longest: int = 0  # of them, in tokens

    def __add__(self, other: "Counts") -> "Counts":
        mine, theirs = asdict(self), asdict(other)
        longest = max(mine.pop("longest"), theirs.pop("longest"))
        return Counts(**{key: mine[key] + theirs[key] for key in mine}, longest=longest)


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
        tokens, lengths, scored = self._rows(source)
        windows = Windows(tokens, lengths, scored, np.asarray(places).astype(np.uint64))
        if target is None:
            return windows
        other = "tokens" if self.from_prompts else "target_tokens"
        target_tokens = self._take(other, target.start, target.length, self.packing.max_seq_len)
        return windows._replace(target_tokens=target_tokens, target_lengths=target.length, scored=np.zeros_like(scored))

    def _count_full(self) -> Counts:
        packing, shards = self.packing, self.shards
        n = shards.n_tokens
        windows = int(packing.windows_of(np.array([n]))[0])
        text = n + (windows - 1) * packing.shared if windows else 0
        edges = packing.row - packing.room
        scorable = sum(shard.record.scored_tokens for shard in shards.shards)
        lost = 0
        if packing.first_scored and n:
            first = np.zeros(1, np.int64)
            lost = int(not self.with_spans or self._in_spans(first, first + 1, 1)[0, 0])
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
            first, length = _extent(shard.offsets, documents)
            source.start[rows] = self.shards.first_token[number] + first + starts
            source.length[rows] = np.minimum(packing.room, length - starts)
            source.new[rows] = np.where(starts > 0, packing.shared, packing.first_scored)
            if packing.pairs:
                base = self.shards.first_token if self.from_prompts else self.shards.first_target
                source.length[rows], begins, lengths = _sides(shard, documents, self.from_prompts)
                source.length[rows] = np.minimum(packing.room, source.length[rows])
                target.start[rows] = base[number] + begins
                target.length[rows] = np.minimum(packing.max_seq_len, lengths)
        return source, target if packing.pairs else None

    def _rows(self, rows: "_Rows") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> tokens (B, R), lengths (B,), scored (B, R), the edges put around the text"""
        packing, room = self.packing, self.packing.room
        text = self._take("tokens", rows.start, rows.length, room)
        places = np.arange(room)
        scored = (places >= rows.new[:, None]) & (places < rows.length[:, None])
        if self.with_spans:
            scored &= self._in_spans(rows.start, rows.length, room)
        lengths = rows.length
        if packing.begin is not None:
            text = np.pad(text, ((0, 0), (1, 0)), constant_values=packing.begin)
            scored = np.pad(scored, ((0, 0), (1, 0)))
            lengths = lengths + 1
        if packing.end is not None:
            text, scored = np.pad(text, ((0, 0), (0, 1))), np.pad(scored, ((0, 0), (0, 1)))
            text[np.arange(len(text)), lengths] = packing.end
            lengths = lengths + 1
        return text, lengths, scored

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
            owner, document = _ranges(low, high - low)
            span_owner, span = _ranges(shard.scored_offsets[document], np.diff(shard.scored_offsets)[document])
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


def _ranges(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of whole numbers end to end. -> whose run each is, the numbers"""
    owner = np.repeat(np.arange(len(first)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return owner, first[owner] + within


def _extent(offsets: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> first token and length of documents"""
    return offsets[documents], offsets[documents + 1] - offsets[documents]


def _sides(shard: Shard, documents: np.ndarray, from_prompts: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> length of each source; first token and length of each target, in the shard"""
    first, length = _extent(shard.offsets, documents)
    if not from_prompts:
        return length, *_extent(shard.target_offsets, documents)
    begins = np.append(shard.scored[:, 0], 0)  # one more, for documents after the last span
    has_span = np.diff(shard.scored_offsets)[documents] > 0
    border = np.where(has_span, begins[shard.scored_offsets[documents]], length)
    return border, first + border, length - border


def load_index(
    shard: Shard, packing: Packing, from_prompts: bool, fallback: Path | None
) -> tuple[np.ndarray, np.ndarray, Counts]:
    """The windows of a shard: their documents, and where in them they start; made at the first time, then read.

    It lies beside the shard, or in `fallback` where that folder cannot be written, or else only in memory."""
    key = sha256_json({"shard": shard.record.sha256, "version": 1, **asdict(packing)})[:12]
    name = f"{shard.path.stem}.windows-{key}.safetensors"
    folders = [shard.path.parent, *([fallback / shard.path.parent.name] if fallback else [])]
    for folder in folders:
        if (folder / name).exists():
            tensors = map_tensors(folder / name)
            return tensors["document"], tensors["start"], Counts(**read_about(folder / name)["counts"])
    document, start, counts = make_index(shard, packing, from_prompts)
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(folder / name, {"document": [document], "start": [start]}, {"counts": asdict(counts)})
            break
        except (OSError, UserError):
            continue
    return document, start, counts


def make_index(shard: Shard, packing: Packing, from_prompts: bool) -> tuple[np.ndarray, np.ndarray, Counts]:
    """-> documents (W,) int32, starts within them (W,) int32, counts"""
    every = np.arange(shard.n_documents)
    if packing.pairs:
        return _index_of_pairs(shard, packing, from_prompts)
    lengths = np.diff(shard.offsets)
    windows = packing.windows_of(lengths)
    if packing.packing != "partial":
        windows = np.minimum(windows, 1)
    owner, number = _ranges(np.zeros(len(every), np.int64), windows)
    start = number * packing.stride
    stop = np.minimum(start + packing.room, lengths[owner])
    new = start + np.where(start > 0, packing.shared, packing.first_scored)
    scored = _scored_between(shard, owner, new, stop)
    kept = scored > 0
    long = lengths > packing.room
    edges = packing.row - packing.room - packing.ahead
    counts = Counts(
        windows=int(kept.sum()),
        input_tokens=int((stop - start + edges)[kept].sum()),
        scored_tokens=int(scored.sum()),
        unscored_tokens=shard.record.scored_tokens - int(scored.sum()),
        left_out=int((~kept).sum() + (windows == 0).sum()),
        too_long=int(long.sum()),
        longest=int(lengths.max(initial=0)),
    )
    return owner[kept].astype(np.int32), start[kept].astype(np.int32), counts


def _index_of_pairs(shard: Shard, packing: Packing, from_prompts: bool) -> tuple[np.ndarray, np.ndarray, Counts]:
    every = np.arange(shard.n_documents)
    if not len(every):
        return every.astype(np.int32), every.astype(np.int32), Counts()
    source, _, target = _sides(shard, every, from_prompts)
    kept = target > 0
    fits_source, fits_target = np.minimum(source, packing.room), np.minimum(target, packing.max_seq_len)
    edges = packing.row - packing.room
    counts = Counts(
        windows=int(kept.sum()),
        input_tokens=int((fits_source + edges + fits_target)[kept].sum()),
        scored_tokens=int(fits_target.sum()),
        unscored_tokens=int((target - fits_target).sum()),
        left_out=int((~kept).sum()),
        too_long=int(((source > packing.room) | (target > packing.max_seq_len)).sum()),
        longest=int(max(source.max(), target.max())),
    )
    return every[kept].astype(np.int32), np.zeros(int(kept.sum()), np.int32), counts


def _scored_between(shard: Shard, document: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """How many tokens of a document's stretch first, …, stop - 1 are scored. All (W,) int64"""
    if shard.scored is None:
        return np.maximum(stop - first, 0)
    owner, _ = _ranges(shard.scored_offsets[:-1], np.diff(shard.scored_offsets))
    spans = shard.scored + shard.offsets[owner][:, None]  # places in the shard
    before = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])

    def scored_before(place: np.ndarray) -> np.ndarray:
        last = np.searchsorted(spans[:, 0], place, side="right")  # spans that begin at or before it
        over = np.where(last > 0, np.maximum(spans[last - 1, 1] - place, 0), 0) if len(spans) else 0
        return before[last] - over

    base = shard.offsets[document]
    return np.where(stop > first, scored_before(base + stop) - scored_before(base + first), 0)
