"""Documents -> how they are cut into windows: rows of R = max_seq_len + ahead tokens.

    full      all documents run together          partial   each document is cut by itself
    truncate  the first window of each document    none      a document (or pair) a window, longer ones refused
    best_fit  whole documents of a shard, put together so that little is left empty; longer ones cut into pieces

A stream of n tokens (full: the split, partial: a document) gives max(1, ceil((n - s) / (b - s))) windows: b tokens of a
row are text, and s = overlap + (0 with window_bos, else ahead) are shared by neighbours. What the window before has
scored is not scored again: every token is scored exactly once, except the first of a stream where nothing precedes it
and, with document_masking, the first of each document.

Under best_fit a window is a stream: a document that begins inside it is predicted from the one before (unless
document_masking), and the first of the window from BOS or not at all. Pieces of a cut document share `ahead` tokens,
with window_bos too: a piece may lie behind other documents, where no BOS stands before its first new token.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpus.best_fit import best_fit
from corpus.shards import Shard, map_tensors, read_about, write_tensors
from utils.files import shown
from utils.hashing import sha256_bytes, sha256_json
from utils.messages import UserError, warn


class Windows(NamedTuple):
    """Rows of tokens, filled on the right. B rows of R places."""

    tokens: np.ndarray  # (B, R) int64
    lengths: np.ndarray  # (B,) int64: how many of them are tokens
    # (B, R) bool: tokens of the text that this window scores (of pairs none: their targets are scored)
    scored: np.ndarray
    places: np.ndarray  # (B,) uint64: in the order; what chance is drawn from
    target_tokens: np.ndarray | None = None  # (B, max_seq_len) int64: the other side of pairs
    target_lengths: np.ndarray | None = None  # (B,) int64
    # With document_masking: (B, R) int64, which of the row's documents each place belongs to, counted from 0. The edges
    # belong to the first and the last document, the filling to the last.
    documents: np.ndarray | None = None
    target_documents: np.ndarray | None = None  # (B, max_seq_len) int64: the same numbers for the other side of pairs

    def rows(self, chosen: np.ndarray | slice) -> "Windows":
        """Some of the rows."""
        return Windows._make([None if values is None else values[chosen] for values in self])

    def narrowed(self) -> "Windows":
        """Without the places that no row fills."""

        def cut(values: np.ndarray | None, lengths: np.ndarray | None) -> np.ndarray | None:
            return None if values is None or lengths is None else values[:, : int(lengths.max(initial=1))]

        return self._replace(
            tokens=cut(self.tokens, self.lengths), scored=cut(self.scored, self.lengths),
            documents=cut(self.documents, self.lengths), target_tokens=cut(self.target_tokens, self.target_lengths),
            target_documents=cut(self.target_documents, self.target_lengths),
        )  # fmt: skip


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
    document_masking: bool = False  # documents in a window do not see each other

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UserError(
                f"data.overlap={self.overlap} leaves no room for new tokens in windows of "
                f"data.max_seq_len={self.max_seq_len}; it can be at most {self.overlap + self.stride - 1}"
            )
        if self.pairs and self.packing not in ("none", "truncate", "best_fit"):
            raise UserError(
                f"data.packing={self.packing} cannot hold sources and targets; use none, truncate or best_fit"
            )

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
        if self.packing == "best_fit":
            return self.ahead
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
        """Streams of so many tokens -> how many windows (best_fit: pieces) each gives, those without a target among
        them."""
        count = np.maximum(1, -(-(lengths - self.shared) // self.stride))
        return np.where(lengths > (0 if self.packing == "best_fit" else self.first_scored), count, 0)

    def unscored(self, start: np.ndarray, is_first: np.ndarray | bool = True) -> np.ndarray:
        """Pieces of documents -> how many tokens at their beginnings are not scored. start: where in the document.
        is_first: whether a piece is the first of its window."""
        begun = np.where(is_first, self.first_scored, min(self.ahead, 1) if self.document_masking else 0)
        return np.where(start > 0, self.shared, begun)


@dataclass
class Counts:
    """What the windows of a shard, or of a split, hold and leave out."""

    windows: int = 0
    input_tokens: int = 0  # fed to the model, without filling: edges and the other side of pairs counted
    scored_tokens: int = 0
    unscored_tokens: int = 0  # that should have been scored, but are cut off or have nothing before them
    left_out: int = 0  # windows (truncate, none: documents; best_fit: pieces) without a target
    too_long: int = 0  # documents that do not fit into a window (not counted for full)
    longest: int = 0  # of them, in tokens

    def __add__(self, other: "Counts") -> "Counts":
        mine, theirs = asdict(self), asdict(other)
        longest = max(mine.pop("longest"), theirs.pop("longest"))
        return Counts(**{key: mine[key] + theirs[key] for key in mine}, longest=longest)


def ranges(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of whole numbers end to end. -> whose run each is, the numbers"""
    owner = np.repeat(np.arange(len(first)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return owner, first[owner] + within


def extent(offsets: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> first token and length of documents"""
    return offsets[documents], offsets[documents + 1] - offsets[documents]


def sides(shard: Shard, documents: np.ndarray, from_prompts: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> length of each source; first token and length of each target, in the shard"""
    first, length = extent(shard.offsets, documents)
    if not len(documents):  # a shard without documents has no other tensors
        return length, first, length
    if not from_prompts:
        return length, *extent(shard.target_offsets, documents)
    span = shard.scored_offsets[documents]
    with_span = shard.scored_offsets[documents + 1] > span
    border = length.copy()
    border[with_span] = shard.scored[span[with_span], 0]
    return border, first + border, length - border


def first_tokens(shard: Shard) -> int:
    """How many first tokens of documents should be scored."""
    if shard.scored is None:
        return int(np.count_nonzero(np.diff(shard.offsets)))
    of_spans = shard.scored_offsets[:-1][np.diff(shard.scored_offsets) > 0]
    begins, ends = shard.scored[of_spans].T
    return int(np.count_nonzero((begins == 0) & (ends > 0)))


class Cuts(NamedTuple):
    """The windows of a shard: which pieces of its documents they are made of, window after window."""

    document: np.ndarray  # (P,) int32
    start: np.ndarray  # (P,) int32: where in the document; a piece ends where document or room does
    first: np.ndarray | None  # (W + 1,) int64: first piece of each window, and the end; None: a piece is a window


def load_index(
    shard: Shard, packing: Packing, from_prompts: bool, fallback: Path | None, keep: bool = True
) -> tuple[Cuts, Counts]:
    """The windows of a shard; made at the first time, then read.

    Kept beside the shard, or in `fallback` where that folder cannot be written, or else only in memory."""
    key = sha256_json({"shard": shard.record.sha256, "version": 3, **asdict(packing)})[:12]
    name = f"{shard.path.stem}.windows-{key}.safetensors"
    folders = [shard.path.parent, *([fallback / shard.path.parent.name] if fallback else [])]
    for folder in folders:
        if (folder / name).exists():
            found = read_index(folder / name)
            if found is not None:
                return found
            warn(f"{shown(folder / name)} is damaged; it is made again")
    cuts, counts = make_index(shard, packing, from_prompts)
    tensors = {part: [values] for part, values in cuts._asdict().items() if values is not None}
    for folder in folders if keep else []:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            about = {"counts": asdict(counts), "checksum": _checksum(cuts, counts)}
            write_tensors(folder / name, tensors, about)
            break
        except (OSError, UserError):
            continue
    return cuts, counts


def read_index(path: Path) -> tuple[Cuts, Counts] | None:
    """The windows of a shard as they were kept; None where a bit of the file is not as it was written."""
    try:
        tensors, said = map_tensors(path), read_about(path)
        cuts, counts = Cuts(tensors["document"], tensors["start"], tensors.get("first")), Counts(**said["counts"])
        return (cuts, counts) if said["checksum"] == _checksum(cuts, counts) else None
    except (UserError, ValueError, KeyError, TypeError, AttributeError):  # whatever a damaged header can give
        return None


def _checksum(cuts: Cuts, counts: Counts) -> str:
    arrays = {
        name: [values.dtype.name, list(values.shape), sha256_bytes(np.ascontiguousarray(values).view(np.uint8).data)]
        for name, values in cuts._asdict().items()
        if values is not None
    }
    return sha256_json({"arrays": arrays, "counts": asdict(counts)})


def make_index(shard: Shard, packing: Packing, from_prompts: bool) -> tuple[Cuts, Counts]:
    """Cuts a shard into windows."""
    if packing.pairs:
        return _index_of_pairs(shard, packing, from_prompts)
    lengths = np.diff(shard.offsets)
    pieces = packing.windows_of(lengths)
    if packing.packing in ("truncate", "none"):
        pieces = np.minimum(pieces, 1)
    document, number = ranges(np.zeros(len(pieces), np.int64), pieces)
    start = number * packing.stride
    size = np.minimum(packing.room, lengths[document] - start)
    first = None
    if packing.packing == "best_fit":
        # What could be scored at best: a piece without a target is not worth a place.
        least = np.minimum(packing.unscored(start, True), packing.unscored(start, False))
        worth = _scored_between(shard, document, start + least, start + size) > 0
        document, start, size = document[worth], start[worth], size[worth]
        order, first = _put_together(size, np.zeros_like(size), packing)
        document, start, size = document[order], start[order], size[order]
    window = _window_of(first, len(document))
    is_first = np.diff(window, prepend=-1) > 0
    scored = _scored_between(shard, document, start + packing.unscored(start, is_first), start + size)
    kept = np.bincount(window, scored) > 0
    stay = kept[window]
    counts = Counts(
        windows=int(kept.sum()),
        input_tokens=int(size[stay].sum()) + int(kept.sum()) * (packing.row - packing.room - packing.ahead),
        scored_tokens=int(scored.sum()),
        unscored_tokens=shard.record.scored_tokens - int(scored.sum()),
        left_out=int(pieces.sum() + (pieces == 0).sum() - stay.sum()),
        too_long=int((lengths > packing.room).sum()),
        longest=int(lengths.max(initial=0)),
    )
    return _kept(document, start, first, kept, stay), counts


def _put_together(sizes: np.ndarray, others: np.ndarray, packing: Packing) -> tuple[np.ndarray, np.ndarray]:
    """-> pieces in the order of their windows, first piece of each window and the end"""
    window = best_fit(sizes, others, packing.room, packing.max_seq_len if packing.pairs else packing.room)
    return np.argsort(window, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(window))])


def _window_of(first: np.ndarray | None, pieces: int) -> np.ndarray:
    """The window that each piece is in. -> (P,)"""
    return np.arange(pieces) if first is None else np.repeat(np.arange(len(first) - 1), np.diff(first))


def _kept(
    document: np.ndarray, start: np.ndarray, first: np.ndarray | None, kept: np.ndarray, stay: np.ndarray
) -> Cuts:
    """Without some of the windows. kept: (W,) bool. stay: (P,) bool, the same of their pieces"""
    if first is not None:
        first = np.concatenate([[0], np.cumsum(np.diff(first)[kept])])
    return Cuts(document[stay].astype(np.int32), start[stay].astype(np.int32), first)


def _index_of_pairs(shard: Shard, packing: Packing, from_prompts: bool) -> tuple[Cuts, Counts]:
    every = np.arange(shard.n_documents)
    source, _, target = sides(shard, every, from_prompts)
    kept = target > 0
    fits_source, fits_target = np.minimum(source, packing.room), np.minimum(target, packing.max_seq_len)
    document, first = every[kept], None
    if packing.packing == "best_fit":
        # An empty source has a window of its own: a target that looks at nothing must find no other's source there.
        sizes = np.where(source == 0, packing.room, fits_source)[kept]
        order, first = _put_together(sizes, fits_target[kept], packing)
        document = document[order]
    windows = len(document) if first is None else len(first) - 1
    counts = Counts(
        windows=windows,
        input_tokens=int((fits_source + fits_target)[kept].sum()) + windows * (packing.row - packing.room),
        scored_tokens=int(fits_target.sum()),
        unscored_tokens=int((target - fits_target).sum()),
        left_out=int((~kept).sum()),
        too_long=int(((source > packing.room) | (target > packing.max_seq_len)).sum()),
        longest=int(max(source.max(initial=0), target.max(initial=0))),
    )
    return Cuts(document.astype(np.int32), np.zeros(len(document), np.int32), first), counts


def _scored_between(shard: Shard, document: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """How many tokens of a document's stretch first, …, stop - 1 are scored. All (W,) int64"""
    if shard.scored is None:
        return np.maximum(stop - first, 0)
    owner, _ = ranges(shard.scored_offsets[:-1], np.diff(shard.scored_offsets))
    spans = shard.scored + shard.offsets[owner][:, None]  # places in the shard
    before = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])

    def scored_before(place: np.ndarray) -> np.ndarray:
        last = np.searchsorted(spans[:, 0], place, side="right")  # spans that begin at or before it
        over = np.where(last > 0, np.maximum(spans[last - 1, 1] - place, 0), 0) if len(spans) else 0
        return before[last] - over

    base = shard.offsets[document]
    return np.where(stop > first, scored_before(base + stop) - scored_before(base + first), 0)
