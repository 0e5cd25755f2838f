"""Documents whose every token is another number, and shards of them."""

import itertools
from pathlib import Path

import numpy as np

from corpus.shard_writer import ShardWriter
from corpus.shards import ShardSet, Tokens, totals


def documents_of(rng: np.random.Generator, n: int, longest: int, empty: bool = True) -> list[list[int]]:
    lengths = rng.integers(0 if empty else 1, longest + 1, n)
    numbers = itertools.count(10)  # every token another one, so that it is known where it came from
    return [[next(numbers) for _ in range(length)] for length in lengths]


def spans_of(rng: np.random.Generator, documents: list[list[int]]) -> list[list[list[int]]]:
    """Up to three spans a document, in order, not touching."""
    spans = []
    for document in documents:
        edges = np.sort(
            rng.choice(len(document) + 1, size=min(2 * int(rng.integers(0, 4)), len(document)) // 2 * 2, replace=False)
        )
        spans.append(edges.reshape(-1, 2).tolist())
    return spans


def batch_of(
    documents: list[list[int]], spans: list[list[list[int]]] | None = None, targets: list[list[int]] | None = None
) -> Tokens:
    flat = [token for document in documents for token in document]
    tokens = Tokens(
        tokens=np.array(flat, np.uint32),
        lengths=np.array([len(document) for document in documents], np.int64),
        addresses=np.arange(len(documents)),
        n_bytes=np.ones(len(documents), np.int64),
        text=np.ones((len(documents), 3), np.int64),
    )
    if spans is not None:
        rows = [span for of_one in spans for span in of_one]
        tokens = tokens._replace(
            scored=np.array(rows, np.int32).reshape(-1, 2),
            scored_lengths=np.array([len(of_one) for of_one in spans], np.int64),
        )
    if targets is not None:
        tokens = tokens._replace(
            target_tokens=np.array([token for target in targets for token in target], np.uint32),
            target_lengths=np.array([len(target) for target in targets], np.int64),
        )
    return tokens


def shards_of(
    folder: Path, tokens: Tokens, kind: str = "text", shard_tokens: int = 40, part: int = 0,
    before: ShardSet | None = None,
) -> ShardSet:  # fmt: skip
    """One part of shards; before: another part of the same folder, which comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder, part, np.dtype(np.uint16), shard_tokens, {})
    writer.add(tokens)
    writer.close()
    records = [*(shard.record for shard in (before.shards if before else [])), *writer.records]
    return ShardSet(folder, {"kind": kind, "shards": [vars(record) for record in records], **totals(records)})
