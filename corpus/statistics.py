"""A split's shards -> what they hold, counted in blocks: lengths, frequent tokens, what each packing wastes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from corpus.packing import Packing
from corpus.shards import ShardSet
from corpus.window_index import WindowIndex, packing_shares
from utils.messages import UserError

BLOCK = 1 << 20  # tokens
COUNTED = 1 << 26  # tokens that are counted, evenly spaced over the split where it has more
PACKED = 1 << 20  # documents that each packing is tried on


class Frequencies(NamedTuple):
    """How often tokens occur."""

    counts: np.ndarray  # (vocab_size,) int64
    tokens: int  # that were counted


def lengths_of(shards: ShardSet) -> Counter[int]:
    """How many documents have how many tokens, both sides of pairs counted."""
    found: Counter[int] = Counter()
    for shard in shards.shards:
        lengths = np.diff(shard.offsets)
        if shard.target_offsets is not None:
            lengths = lengths + np.diff(shard.target_offsets)
        values, numbers = np.unique(lengths, return_counts=True)
        found.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return found


def frequencies(shards: ShardSet, most: int = COUNTED) -> Frequencies:
    """Of all tokens, or of evenly spaced blocks of about `most` of them."""
    size = max(int(shards.manifest["vocab_size"]), int(shards.manifest["largest_id"]) + 1)
    total = shards.n_tokens + shards.manifest["target_tokens"]
    step = max(1, -(-total // max(most, BLOCK)))
    counts, seen = np.zeros(size, np.int64), 0
    for number, block in enumerate(_blocks(shards)):
        if number % step == 0:
            counts += np.bincount(block, minlength=size)
            seen += len(block)
    return Frequencies(counts, seen)


def _blocks(shards: ShardSet) -> Iterator[np.ndarray]:
    for shard in shards.shards:
        for ids in (shard.tokens, shard.target_tokens):
            if ids is not None:
                for at in range(0, len(ids), BLOCK):
                    yield ids[at : at + BLOCK]


def first_shards(shards: ShardSet, most: int = PACKED) -> ShardSet:
    """The first shards, with about `most` documents; at least one."""
    records: list[dict[str, Any]] = []
    documents = 0
    for entry in shards.manifest["shards"]:
        if records and documents + entry["documents"] > most:
            break
        records.append(entry)
        documents += entry["documents"]
    tokens = sum(entry["tokens"] for entry in records)
    return ShardSet(shards.directory, {**shards.manifest, "shards": records, "documents": documents, "tokens": tokens})


class Waste(NamedTuple):
    """What a packing costs."""

    windows: int
    padding: float  # of all places, those that hold nothing
    truncated: float  # of all documents, those that no window holds whole
    unscored: float  # of all tokens that should be scored, those that are not


def waste_of(shards: ShardSet, packing: Packing) -> dict[str, Waste]:
    """Of each way of packing that the documents can take, with the other settings of `packing`. Nothing is written.

    `none` refuses documents that are longer than a window, so it is there only where there are none."""
    modes = ("truncate", "none", "best_fit") if packing.pairs else ("full", "partial", "truncate", "best_fit", "none")
    found = {}
    for mode in modes:
        settings = replace(packing, packing=mode, overlap=packing.overlap if mode in ("full", "partial") else 0)
        try:
            index = WindowIndex(shards, settings, keep=False)
        except UserError:  # a document that is too long for `none`
            continue
        found[mode] = Waste(len(index), **packing_shares(index))
    return found
