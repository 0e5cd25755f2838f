"""Windows of packing full, by number -> their rows, where each lies in one shard and all are alike: the fast way."""

import numpy as np

from corpus.one_array import OneArray, as_rows, runs
from corpus.packing import Packing
from corpus.shards import ShardSet

NOWHERE = 1 << 62  # beyond any array


class WholeWindows:
    """Reads windows of text that is all scored, but those across two shards, the last one, and the first where it is
    not like the others."""

    def __init__(self, shards: ShardSet, packing: Packing) -> None:
        self.packing = packing
        stride, room = packing.stride, packing.room
        tokens = OneArray([shard.tokens for shard in shards.shards])
        begins, sizes = shards.first_token[:-1], np.diff(shards.first_token)
        # What the first window scores is what others score, unless they overlap.
        first = np.maximum(-(-begins // stride), packing.shared != packing.first_scored)
        count = np.maximum(0, (sizes - (first * stride - begins) - room) // stride + 1)
        self.dtype = tokens.values.dtype
        # Windows from the numbers 2 k of these bounds to 2 k + 1 lie in shard k, those between in none.
        self.bounds = np.stack([first, first + count], axis=1).reshape(-1)
        self.shift = np.full(len(self.bounds) + 1, NOWHERE)
        self.shift[1::2] = tokens.first - begins
        self.runs = runs(tokens.values, room)
        is_simple = len(sizes) == 1 and not first[0]
        self.of_one_shard = runs(tokens.values, room, 0, stride) if is_simple else None
        self.scored = np.zeros(packing.row, bool)
        before = int(packing.begin is not None)
        self.scored[before + packing.shared : before + room] = True
        self.alike = np.empty(0, np.int64), np.empty((0, packing.row), bool)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """indices: (B,) -> tokens (B, R) int64, lengths (B,), scored (B, R); None where one is not such a window.

        Lengths and scored are one value and one row seen B times: they cannot be written to."""
        n, packing = len(indices), self.packing
        try:
            if self.of_one_shard is not None:
                taken = self.of_one_shard[indices]
            else:
                shift = self.shift[self.bounds.searchsorted(indices, "right")]
                taken = self.runs[indices * packing.stride + shift]
        except IndexError:
            return None
        text = as_rows(taken, self.dtype)
        if packing.room == packing.row:
            tokens = text.astype(np.int64)
        else:
            before = int(packing.begin is not None)
            tokens = np.empty((n, packing.row), np.int64)
            tokens[:, before : before + packing.room] = text
            if packing.begin is not None:
                tokens[:, 0] = packing.begin
            if packing.end is not None:
                tokens[:, -1] = packing.end
        if len(self.alike[0]) != n:
            row = np.int64(packing.row)
            self.alike = np.broadcast_to(row, n), np.broadcast_to(self.scored, (n, packing.row))
        return tokens, *self.alike
