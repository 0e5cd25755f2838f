"""Documents that another program tokenised -> a split's folder of shards, which training takes like any other.

The folder appears whole or not at all. What nobody noted when the ids were made is found out here: that they are within
the tokenizer's vocabulary, that documents end as the config says, and how much text they are, by decoding them.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config
from corpus.encoding import layout_of
from corpus.interop import Documents, Source
from corpus.measuring import measured
from corpus.shard_writer import ShardWriter
from corpus.shards import FORMAT, FORMAT_VERSION, MANIFEST, SETTINGS, Tokens, dtype_for, sealed, totals
from corpus.tokenising import cores
from corpus.workers import Workers
from tokenizer.batches import Texts
from tokenizer.tokenizer import Tokenizer
from utils.files import atomic_folder, write_json
from utils.hashing import sha256_file, sha256_json
from utils.messages import UserError, progress, warn

PIECE = 1 << 18  # tokens that are checked and decoded at once, unless one document has more
LONGEST_DECODED = 1 << 22  # tokens of a document: to decode it, each becomes an object
LONGEST = 2**31 - 1  # tokens of a document: windows count their places within it in int32
LOOKED_AT = 100  # documents that are encoded again, to see whether the tokenizer is theirs


def import_tokens(
    config: Config, tokenizer: Tokenizer, split: str, folder: Path, form: str, source: Source, with_text: bool = True
) -> dict[str, Any]:
    """Writes `folder`, which is not there yet. -> its manifest

    form: the format that `source` was read from. with_text: decode every document, so that bits per byte and
    perplexity per word can be told of a model that is scored on these.
    Raises UserError where ids are beyond the vocabulary, no document ends with EOS though the config says so, or
    dataset.kind is not text.
    """
    layout = layout_of(config)
    if layout.kind != "text":
        raise UserError(f"dataset.kind={layout.kind}: tokens of other programs say nothing of what is scored; use text")
    files = [[file.name, sha256_file(file)] for file in source.files]
    settings = {
        **layout.settings(),
        "tokenize.shard_tokens": config.tokenize.shard_tokens,
        "imported from": form,
        "tokenizer's fingerprint": tokenizer.fingerprint,
        "hash of the input": sha256_json(files),
        "format version": FORMAT_VERSION,
    }
    about = {"format": FORMAT, "settings": sha256_json(settings)}
    dtype = dtype_for(tokenizer.vocab_size)
    check = Check(tokenizer, form)
    with atomic_folder(folder) as temporary, progress(f"importing {split}", unit="M tokens") as meter:
        writer = ShardWriter(temporary, 0, dtype, config.tokenize.shard_tokens, about)
        pieces = map(check, in_pieces(source.documents))
        counted = with_counts(pieces, tokenizer, config.tokenize.num_workers) if with_text else uncounted(pieces)
        done = 0
        for documents, text in counted:
            n = len(documents.lengths)
            addresses = np.arange(done, done + n)
            writer.add(Tokens(documents.tokens, documents.lengths, addresses, text[:, 0], text))
            done += n
            meter.advance(len(documents.tokens) / 1e6)
        writer.close()
        check.conclude(layout.document_end)
        manifest = {
            "format": FORMAT, "format_version": FORMAT_VERSION, "split": split, "kind": "text", "dtype": dtype.name,
            "vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint,
            "input": settings["hash of the input"], "imported": {"format": form, "files": files},
            "settings": about["settings"], **totals(writer.records), "skipped": {}, "empty": 0,
            "shards": [asdict(record) for record in writer.records],
        }  # fmt: skip
        write_json(temporary / SETTINGS, settings)
        write_json(temporary / MANIFEST, sealed(manifest))
    return sealed(manifest)


class Check:
    """Pieces -> the same, once their ids are known to be the tokenizer's, as far as that can be told."""

    def __init__(self, tokenizer: Tokenizer, form: str) -> None:
        self.tokenizer, self.form = tokenizer, form
        self.documents = self.ended = self.looked_at = self.otherwise = 0

    def __call__(self, piece: Documents) -> Documents:
        """Raises UserError at an id that the tokenizer does not have."""
        tokens, size = piece.tokens, self.tokenizer.vocab_size
        if len(piece.lengths) and int(piece.lengths.max()) > LONGEST:
            raise UserError(
                f"a document of {int(piece.lengths.max()):,} tokens: windows count to 2^31 - 1 within one; is there an "
                "EOS to cut it after?"
            )
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
            at = int(np.argmax((tokens < 0) | (tokens >= size)))
            number = self.documents + int(np.searchsorted(np.cumsum(piece.lengths), at, side="right"))
            raise UserError(
                f"document {number:,} (counted from 0) has the id {int(tokens[at]):,}, but the tokenizer only "
                f"{size:,}: it is another one's; set tokenizer.path to that which made these ids"
            )
        self.documents += len(piece.lengths)
        full = piece.lengths > 0
        last = np.cumsum(piece.lengths)[full] - 1
        self.ended += int((tokens[last] == self.tokenizer.eos_id).sum()) if self.tokenizer.eos_id is not None else 0
        self._look(piece)
        return piece

    def _look(self, piece: Documents) -> None:
        """Whether the first documents are the same after decoding and encoding."""
        for ids in split_up(piece):
            if self.looked_at == LOOKED_AT or len(ids) > PIECE:
                return
            special = np.isin(ids, self.tokenizer.special_ids)
            again = self.tokenizer.encode(self.tokenizer.decode(ids))
            self.looked_at += 1
            self.otherwise += again != ids[~special].tolist()

    def conclude(self, document_end: str) -> None:
        """At the end. Raises UserError where no document ends as the config says that they all do."""
        if not self.documents:
            raise UserError("there is no document in it")
        if self.otherwise:
            warn(
                f"{self.otherwise} of the first {self.looked_at} documents give other ids when they are decoded and "
                "encoded again. A few do where documents were cut elsewhere than between words, or the tokenizer "
                "normalises; many: is it the tokenizer that made them?"
            )
        if document_end == "eos" and not self.ended:
            raise UserError(
                "no document ends with the tokenizer's EOS: set tokenize.document_end=none, or is it another tokenizer?"
            )
        if document_end == "eos" and self.ended < self.documents:
            warn(
                f"{self.documents - self.ended:,} of {self.documents:,} documents do not end with EOS; kept as they are"
            )


class Measure:
    """Documents -> UTF-8 bytes, words and lines of the text of each (documents, 3) int64. Pickles."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, piece: Documents) -> np.ndarray:
        """Special tokens are no text."""
        return measured(Texts([self.tokenizer.decode(ids) for ids in split_up(piece)]))


def uncounted(pieces: Iterable[Documents]) -> Iterator[tuple[Documents, np.ndarray]]:
    """Pieces, with nothing said of their text."""
    return ((piece, np.zeros((len(piece.lengths), 3), np.int64)) for piece in pieces)


def with_counts(
    pieces: Iterable[Documents], tokenizer: Tokenizer, num_workers: int | None
) -> Iterator[tuple[Documents, np.ndarray]]:
    """Pieces, each with the measures of its documents' text, in their order; decoded by worker processes."""
    waiting: deque[Documents] = deque()

    def noted() -> Iterator[Documents]:
        for piece in pieces:
            if len(piece.lengths) and int(piece.lengths.max()) > LONGEST_DECODED:
                raise UserError(
                    f"a document of {int(piece.lengths.max()):,} tokens is too long to be decoded and counted as text; "
                    "--no-text imports it uncounted"
                )
            waiting.append(piece)
            yield piece

    with Workers(Measure(tokenizer), cores() if num_workers is None else num_workers) as pool:
        for text in pool.map(noted()):
            yield waiting.popleft(), text


def in_pieces(documents: Iterable[Documents]) -> Iterator[Documents]:
    """The same, at most PIECE tokens at a time unless a document has more."""
    for part in documents:
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(part.lengths)])
        first = 0
        while first < len(part.lengths):
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + PIECE, side="right")) - 1)
            yield Documents(part.tokens[ends[first] : ends[last]], part.lengths[first:last])
            first = last


def split_up(piece: Documents) -> list[np.ndarray]:
    """The ids of each document."""
    return np.split(piece.tokens, np.cumsum(piece.lengths)[:-1]) if len(piece.lengths) else []
