"""Tokenised documents, in order -> the shards of one part, each written whole or not at all.

Tokens are written as soon as they are added, so that memory does not depend on how large shards are; what else there is
waits in files without names. A shard is completed, hashed and synced by a thread while the next one is being filled.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from corpus.documents import EMPTY
from corpus.shards import GrowingTensors, ShardRecord, Skipped, Tokens, offsets_of, shard_name
from utils.files import user_errors

BLOCK_BYTES = 1 << 22


class Spool:
    """A long array that is appended to, and read once; kept in a file that vanishes with the process."""

    def __init__(self, directory: Path, dtype: np.dtype, width: int = 0) -> None:
        """width: of a row; 0 for numbers."""
        self.directory, self.dtype, self.width, self.rows = directory, np.dtype(dtype), width, 0
        with user_errors(directory):
            self.file = tempfile.TemporaryFile(dir=directory)

    def append(self, values: np.ndarray) -> None:
        """Adds values of the dtype. Raises UserError where the disk is full."""
        with user_errors(self.directory):
            self.file.write(np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8))
        self.rows += len(values)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Everything, a few megabytes at a time, each in the place of those before; afterwards it is gone."""
        with user_errors(self.directory):
            self.file.seek(0)
            block = np.empty(BLOCK_BYTES, np.uint8)
            while size := self.file.readinto(block):
                values = block[:size].view(self.dtype)
                yield values.reshape(-1, self.width) if self.width else values
        self.file.close()


class ShardWriter:
    """Documents of one part -> its shards. Where one shard ends depends on the documents alone."""

    def __init__(
        self, directory: Path, part: int, dtype: np.dtype, shard_tokens: int, about: dict[str, Any],
        finished: Iterable[ShardRecord] = (),
    ) -> None:  # fmt: skip
        """shard_tokens: at most, both sides counted, unless one document alone has more. about: goes into every header.
        finished: shards of this part that are there already."""
        self.directory, self.part, self.dtype, self.shard_tokens = directory, part, np.dtype(dtype), shard_tokens
        self.about = about
        self.records = list(finished)
        self.tokens_done = sum(record.tokens + record.target_tokens for record in self.records)
        self.skipped: list[Skipped] = []  # of the documents that are being added,
        self.empty = np.empty(0, np.int64)  # and rows without text
        self.passed = _Passed()  # those before them that lie behind the last document
        self.writing: Future[None] | None = None
        self.thread = ThreadPoolExecutor(1, "shards")
        last = self.records[-1] if self.records else ShardRecord("", "", 0, part, -1)
        self.shard, self.read_documents, self.read_bytes = last.shard + 1, last.read_documents, last.read_bytes
        self.read_until, self.input = last.read_until, last.input
        self._begin()

    def _begin(self) -> None:
        self.filled = 0
        self.tokens: GrowingTensors | None = None  # once there are some
        self.spools: dict[str, Spool] = {}
        self.lengths: dict[str, list[np.ndarray]] = {}
        self.now = ShardRecord("", "", 0, self.part, self.shard, read_until=self.read_until, input=self.input)

    def add(self, documents: Tokens, inputs: dict[int, str] | None = None) -> None:
        """Adds documents; writes a shard whenever the next document would not fit into it.

        inputs: for the units that they lie in, the hash of the units before.
        """
        self.skipped, self.empty = list(documents.skipped), documents.empty
        documents = documents.as_type(self.dtype)
        sizes = documents.sizes()
        ends = np.cumsum(sizes)
        first = 0
        while first < len(sizes):
            before = int(ends[first - 1]) if first else 0
            last = int(np.searchsorted(ends, before + self.shard_tokens - self.filled, side="right"))
            if last <= first and not self.now.documents:
                last = first + 1  # one document larger than a shard
            if last > first:
                self._take(documents.cut(first, last), inputs or {})
                first = last
            if first < len(sizes):
                self._finish_shard()
        self.passed.add(self.skipped, len(self.empty))
        self.tokens_done += int(sizes.sum())

    def close(self) -> None:
        """Writes what is left, and waits for it. A part without documents still has one, empty shard."""
        if self.now.documents or not self.shard:
            self._finish_shard()
        self._wait()
        self.thread.shutdown()

    def left_over(self) -> dict[str, int]:
        """Rows skipped after the last shard's last document, by reason."""
        return dict(sorted(self.passed.counts.items()))

    def _take(self, piece: Tokens, inputs: dict[int, str]) -> None:
        now = self.now
        self.filled += int(piece.sizes().sum())
        now.documents += len(piece.lengths)
        now.bytes, now.words, now.lines = (
            was + int(new) for was, new in zip((now.bytes, now.words, now.lines), piece.text.sum(0), strict=True)
        )
        now.read_until = int(piece.addresses[-1]) + 1
        passed = int(np.searchsorted(self.empty, now.read_until))
        self.passed.add((one for one in self.skipped if one.address < now.read_until), passed)
        self.skipped = [one for one in self.skipped if one.address >= now.read_until]
        self.empty = self.empty[passed:]
        now.skipped = dict(sorted((self.passed.counts + Counter(now.skipped)).items()))
        self.read_documents += len(piece.lengths) + self.passed.documents
        self.read_bytes += int(piece.n_bytes.sum()) + self.passed.n_bytes
        self.passed = _Passed()
        now.input = inputs.get(now.read_until >> 32, "")
        self._append("tokens", piece.tokens, piece.lengths)
        now.tokens += len(piece.tokens)
        if piece.scored is not None:
            self._append("scored", piece.scored.astype(np.int32, copy=False), piece.scored_lengths)
            now.scored_tokens += int((piece.scored[:, 1] - piece.scored[:, 0]).sum())
        if piece.target_tokens is not None:
            self._append("target_tokens", piece.target_tokens, piece.target_lengths)
            now.target_tokens += len(piece.target_tokens)
        for ids in (piece.tokens, piece.target_tokens):
            if ids is not None and len(ids):
                now.largest_id = max(now.largest_id, int(ids.max()))

    def _append(self, name: str, values: np.ndarray, lengths: np.ndarray) -> None:
        if name == "tokens":
            self._shard_file().append(values)
        else:
            if name not in self.spools:
                self.spools[name] = Spool(self.directory, values.dtype, values.shape[1] if values.ndim > 1 else 0)
            self.spools[name].append(values)
        self.lengths.setdefault(name, []).append(lengths.copy())  # what is added may not stay where it is

    def _shard_file(self) -> GrowingTensors:
        if self.tokens is None:
            self.tokens = GrowingTensors(self.directory / shard_name(self.part, self.shard), "tokens", self.dtype)
        return self.tokens

    def _finish_shard(self) -> None:
        record = self.now
        if "target_tokens" in self.spools:
            record.scored_tokens = record.target_tokens
        elif "scored" not in self.spools:
            record.scored_tokens = record.tokens
        record.read_documents, record.read_bytes = self.read_documents, self.read_bytes
        others: dict[str, Any] = {"offsets": [offsets_of(self.lengths.get("tokens", []))]}
        for name, spool in self.spools.items():
            others[name] = spool
            others[name.replace("tokens", "offsets") if "tokens" in name else f"{name}_offsets"] = [
                offsets_of(self.lengths[name])
            ]
        self._wait()
        self.writing = self.thread.submit(self._write, record, self._shard_file(), others)
        self.shard, self.read_until, self.input = self.shard + 1, record.read_until, record.input
        self._begin()

    def _write(self, record: ShardRecord, file: GrowingTensors, others: dict[str, Any]) -> None:
        own = {key: value for key, value in asdict(record).items() if key not in ("file", "sha256", "size")}
        record.file = shard_name(record.part, record.shard)
        record.sha256, record.size = file.finish(others, {**self.about, "shard": own})
        self.records.append(record)

    def _wait(self) -> None:
        """For the shard that is being written: one at a time, and its error is ours."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()


class _Passed:
    """Rows without tokens, counted: there may be more of them than of documents."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by reason
        self.documents = self.n_bytes = 0  # of them that could be read, and their text

    def add(self, rows: Iterable[Skipped], empty: int) -> None:
        """Counts some more. empty: so many rows without text."""
        if empty:
            self.counts[EMPTY] += empty
        for one in rows:
            self.counts[one.reason] += 1
            self.documents += one.n_bytes > 0
            self.n_bytes += one.n_bytes
