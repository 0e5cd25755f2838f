"""Documents -> tokens that are held in memory, and are cut into windows as those of shards on the disk are."""

from collections import Counter
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config
from corpus.documents import BadDocuments, Document, read_documents
from corpus.encoding import Encoder, Piece, in_columns, layout_of
from corpus.inputs import address_of
from corpus.packing import Packing
from corpus.raw import is_streamed
from corpus.shards import Shard, ShardRecord, ShardSet, Tokens, dtype_for, joined, offsets_of, totals
from corpus.sources import source_of
from tokenizer.tokenizer import Tokenizer
from utils.messages import UserError, amount, info

MOST_TOKENS = 1 << 22  # of a split, both sides of pairs counted
AT_ONCE = 64  # documents encoded together


class HeldShard(Shard):
    """Tokenised documents in memory."""

    def __init__(self, documents: Tokens, name: str) -> None:
        self.path = Path(name)  # only said in messages
        self.tokens, self.offsets = documents.tokens, offsets_of([documents.lengths])
        self.scored = self.scored_offsets = self.target_tokens = self.target_offsets = None
        scored = len(documents.tokens)
        if documents.scored is not None and documents.scored_lengths is not None:
            self.scored, self.scored_offsets = documents.scored, offsets_of([documents.scored_lengths])
            scored = int((documents.scored[:, 1] - documents.scored[:, 0]).sum())
        if documents.target_tokens is not None and documents.target_lengths is not None:
            self.target_tokens, self.target_offsets = documents.target_tokens, offsets_of([documents.target_lengths])
            scored = len(self.target_tokens)
        sides = [ids for ids in (self.tokens, self.target_tokens) if ids is not None and len(ids)]
        n_bytes, words, lines = documents.text.sum(0).tolist() if len(documents.text) else (0, 0, 0)
        self.record = ShardRecord(
            name, "", 0, 0, 0, documents=len(documents.lengths), tokens=len(self.tokens),
            target_tokens=0 if self.target_tokens is None else len(self.target_tokens), scored_tokens=scored,
            bytes=n_bytes, words=words, lines=lines, largest_id=max((int(ids.max()) for ids in sides), default=-1),
        )  # fmt: skip


class HeldShards(ShardSet):
    """One held shard, as a set."""

    def __init__(self, documents: Tokens, name: str, **about: Any) -> None:
        """name: in messages. about: what the manifest of such a set says beside its counts; at least `kind`."""
        shard = HeldShard(documents, name)
        skipped = Counter(one.reason for one in documents.skipped)
        self.directory, self.shards, self.kind = Path(name), [shard], about["kind"]
        self.manifest = {**about, "skipped": dict(skipped), "shards": [asdict(shard.record)], **totals([shard.record])}
        self.n_documents, self.n_tokens = shard.record.documents, shard.record.tokens
        self.first_token = np.array([0, shard.record.tokens])
        self.first_target = np.array([0, shard.record.target_tokens])
        self.first_document = np.array([0, shard.record.documents])

    def __reduce__(self) -> Any:
        raise TypeError("what is held in memory goes to other processes by forking alone")


def read_held(config: Config, split: str, tokenizer: Tokenizer, packing: Packing, enough: int | None) -> HeldShards:
    """The first documents of a split: all, or as many as give about `enough` windows and are as many; of them at most
    4 million tokens, and of a split that is cut from a stream its share of that. Says so where that is not all.

    Raises UserError where there is no document, or a bad one stops the stage."""
    encoder, bad = Encoder(tokenizer, layout_of(config)), BadDocuments(config.tokenize.bad_documents)
    documents = read_documents(config, split, on_bad=bad)
    places: list[Document] = []
    encoded: list[Tokens] = []
    tokens, is_all, most = 0, False, MOST_TOKENS
    if is_streamed(config) and (source := source_of(config, split)) is not None:
        low, high = source.shares[split]
        most = int(MOST_TOKENS * (high - low))  # the rest of the stream is read to no purpose

    def where(address: int) -> str:
        return places[address].where

    while not (is_all or tokens >= most or _are_enough(len(places), tokens, packing, enough)):
        some = list(islice(documents, AT_ONCE))
        is_all = len(some) < AT_ONCE
        pieces = [Piece(address_of(0, len(places) + i), one.fields, one.n_bytes) for i, one in enumerate(some)]
        places += some
        encoded.append(encoder(in_columns(pieces), where))
        tokens += int(encoded[-1].sizes().sum())
    if not places:
        raise UserError(f"the config names no documents for the split '{split}'; see dataset.path")
    if not is_all and not _are_enough(len(places), tokens, packing, enough):
        info(
            f"{split}: the first {len(places):,} documents, {amount(tokens)} tokens, are used, which is as much as is "
            "read before a run on the fly; data.tokens=shards has no such limit"
        )
    whole = joined(encoded)
    for reason, count in bad.counts.items():
        info(f"{split}: {count:,} documents are skipped, {reason}: {bad.places[reason][0]}")
    held = HeldShards(
        whole, f"the split '{split}'", kind=config.dataset.kind, split=split, tokenizer=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size, dtype=dtype_for(tokenizer.vocab_size).name,
    )  # fmt: skip
    held.manifest["skipped"] = dict(Counter(held.manifest["skipped"]) + bad.counts)
    return held


def _are_enough(documents: int, tokens: int, packing: Packing, enough: int | None) -> bool:
    if enough is None or documents < enough:
        return False
    return packing.packing not in ("full", "best_fit") or tokens >= enough * packing.row
