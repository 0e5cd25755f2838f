"""A config and a split -> its documents, one at a time, always in the same order, in constant memory.

    source (files, raw text of the Hub, a function …) -> rows -> split, fields -> documents

Rows that give no document are counted with their place, and stop the stage or are skipped as the config says.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from configs.places import dataset_name
from configs.schema import Config
from corpus import synthetic
from corpus.blocks import Block
from corpus.fields import BadRecord, Fields, texts_of
from corpus.files import COMPRESSED, Row, kind_of
from corpus.functions import FunctionSource
from corpus.inputs import Source, address_of
from corpus.measuring import measured
from corpus.raw import is_stored, is_streamed, raw_manifest
from corpus.sources import share_of, source_of, split_files
from tokenizer.batches import Texts
from utils.hashing import sha256_file, sha256_json
from utils.messages import UserError

EMPTY = "empty"
_WORDS = 1  # where `measured` has them


@dataclass(slots=True)
class Document:
    """What is tokenised as one: its fields by kind, and where it stands."""

    fields: dict[str, Any]
    source: Source = field(compare=False, repr=False)
    unit: int
    row: int
    n_bytes: int  # UTF-8 bytes of its text

    @property
    def where(self) -> str:
        """ "file:line" """
        return self.source.where(self.unit, self.row)


@dataclass
class BadDocuments:
    """What could not be read, counted by reason, with the first places of each.

    action: skip, or stop at the first with a UserError (tokenize.bad_documents).
    """

    action: str = "stop"
    counts: Counter[str] = field(default_factory=Counter)
    places: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    empty: int = 0  # documents without text: left out whatever the action

    def add(self, where: str, reason: str, detail: str = "") -> None:
        """Count one. Raises UserError where bad documents stop the stage."""
        said = f"{where}: {reason}" + (f" ({detail})" if detail else "")
        if self.action == "stop":
            raise UserError(f"{said}; mend it, or skip such documents with tokenize.bad_documents=skip")
        self.counts[reason] += 1
        if self.wants_place(reason):
            self.places[reason].append(said)

    def wants_place(self, reason: str) -> bool:
        """Whether another place of that kind is still to be told."""
        return len(self.places[reason]) < 3

    def rows(self) -> list[tuple[str, str]]:
        """For the table at a stage's end; empty where all was well."""
        rows = [
            (f"skipped, {reason}", f"{count:,}\n" + "\n".join(self.places[reason]))
            for reason, count in self.counts.items()
        ]
        return rows + ([("empty, left out", f"{self.empty:,}")] if self.empty else [])


class Bad(NamedTuple):
    """Why a row gives no document."""

    reason: str
    detail: str


class Columns(NamedTuple):
    """Rows of a unit: their fields by name, and what is no document."""

    fields: dict[str, Texts]
    n_bytes: np.ndarray  # (rows,) int64: of each row's text
    bad: dict[int, Bad | None]  # by row, why there is no document; None where there is no row
    empty: list[int]  # rows without text; increasing


class Reader:
    """Rows -> the fields of documents. Pickles, so that worker processes read as the main one does."""

    def __init__(self, config: Config) -> None:
        """Raises UserError where dataset.fields names a field that the kind does not have."""
        self.fields = Fields(config)
        self.longest = config.tokenize.max_document_bytes
        self.limit = f"tokenize.max_document_bytes is {self.longest:,}"

    def read(self, row: Row) -> tuple[dict[str, Any], int] | Bad:
        """-> fields and UTF-8 bytes of the text, or why there is no document."""
        if row.record is None:
            detail = [row.detail, self.limit if row.reason == "too long" else ""]
            return Bad(row.reason, "; ".join(filter(None, detail)))
        try:
            fields = self.fields.of(row.record)
        except BadRecord as problem:
            return Bad(problem.reason, problem.detail)
        if self.fields.is_empty(fields):
            return Bad(EMPTY, "")
        try:
            size = sum(len(text) if text.isascii() else len(text.encode()) for text in texts_of(fields))
        except UnicodeEncodeError:
            return Bad("not text", "a lone surrogate, half a character of UTF-16")
        if size > self.longest:
            return Bad("too long", f"{size:,} bytes, {self.limit}")
        return fields, size

    def read_block(self, block: Block) -> Columns:
        """The same as `read` of each row, sooner: what is not plainly a text of a fit size is looked at by itself."""
        fields = {name: column.texts for name, column in zip(self.fields.names, block.columns, strict=True)}
        odd = {i for column in block.columns for i in column.odd}
        n_bytes = np.sum([texts.sizes for texts in fields.values()], axis=0)
        is_blank = [measured(texts)[:, _WORDS] == 0 for name, texts in fields.items() if name in self.fields.needed]
        empty = set(np.flatnonzero(np.logical_or.reduce(is_blank)).tolist()) - odd
        odd.update(np.flatnonzero(n_bytes > self.longest).tolist())
        bad: dict[int, Bad | None] = {}
        mended: dict[int, dict[str, str]] = {}
        for i in sorted(odd - empty):
            row = block.row(i)
            found = None if row is None else self.read(row)
            if isinstance(found, Bad) and found.reason == EMPTY:
                empty.add(i)
            elif found is None or isinstance(found, Bad):
                bad[i] = found
            else:
                mended[i], n_bytes[i] = found
        if mended:
            fields = {name: texts.replaced({i: of[name] for i, of in mended.items()}) for name, texts in fields.items()}
        return Columns(fields, n_bytes, bad, sorted(empty))


def read_documents(config: Config, split: str, *, on_bad: BadDocuments | None = None) -> Iterator[Document]:
    """The documents of a split, up to dataset.max_documents and dataset.max_bytes.

    split: a name of `configs.places.splits`. on_bad: collects what could not be read.
    Raises UserError where the source cannot be read, where a document is bad and that stops the stage, and at the end
    where there was no document at all. A split that the config does not have is empty.
    """
    on_bad = on_bad or BadDocuments(config.tokenize.bad_documents)
    source = source_of(config, split)
    if source is None:
        return
    reader = Reader(config)
    documents = n_bytes = 0
    for unit, row_number, row in split_rows(source, split):
        found = reader.read(row)
        if isinstance(found, Bad):
            if found.reason == EMPTY:
                on_bad.empty += 1
            else:
                known = on_bad.action == "stop" or on_bad.wants_place(found.reason)
                on_bad.add(row.where or (source.where(unit, row_number) if known else ""), *found)
            continue
        if dataset_full(config, documents + 1, n_bytes + found[1]):
            break
        documents, n_bytes = documents + 1, n_bytes + found[1]
        yield Document(found[0], source, unit, row_number, found[1])
    if not documents:
        raise UserError(nothing(config, split, sum(on_bad.counts.values()), on_bad.empty, on_bad))


def split_rows(source: Source, split: str, first: int = 0) -> Iterator[tuple[int, int, Row]]:
    """(unit, row's number, row) of the rows that one split gets of a source, from the address `first` on."""
    low, high = source.shares[split]
    for unit in range(first >> 32, source.units):
        start = max(0, first - address_of(unit))
        for number, row in source.rows(unit, start):
            if (low, high) == (0.0, 1.0) or low <= source.place(unit, number) < high:
                yield unit, number, row


def dataset_full(config: Config, documents: int, n_bytes: int) -> bool:
    """Whether so many documents and bytes are more than the caps of a split."""
    dataset = config.dataset
    too_many = dataset.max_documents is not None and documents > dataset.max_documents
    return too_many or (dataset.max_bytes is not None and n_bytes > dataset.max_bytes)


def input_fingerprint(config: Config, split: str) -> str:
    """A hash of what would be read: the files' bytes (wherever they lie) and the settings that choose among them."""
    dataset = config.dataset
    seen = input_settings(config, split)
    if dataset.source == "files":
        files = [path for group in split_files(config, split) for path in group]
        seen["files"] = [[kind_of(path), sha256_file(path)] for path in files]
    elif is_stored(config):
        seen["files"] = [entry["sha256"] for entry in raw_manifest(config)["splits"][split]["files"]]
    elif is_streamed(config):
        source = source_of(config, split)
        seen["units"] = None if source is None else [source.digest(unit) for unit in range(source.units)]
    elif dataset.source != "synthetic":
        source = source_of(config, split)
        assert isinstance(source, FunctionSource)
        seen["function"] = source.identity
    return sha256_json(seen)


def input_settings(config: Config, split: str) -> dict[str, Any]:
    """The settings that choose what is read of a source, wherever it lies. As JSON holds them; nothing is opened."""
    dataset = config.dataset
    seen: dict[str, Any] = {
        "share": list(share_of(config, split)),
        "kind": dataset.kind,
        "fields": Fields(config).sources,
        "caps": [dataset.max_documents, dataset.max_bytes],
    }
    if dataset.source == "files":
        seen["text_unit"] = dataset.text_unit
    elif dataset.source == "synthetic":
        seen["synthetic"] = [synthetic.VERSION, split, dataset.arguments]
    elif is_streamed(config):
        names = ("name", "subset", "revision", "splits", "fractions")
        seen["hub"] = {name: getattr(dataset, name) for name in names}
    return seen


def estimated_bytes(config: Config, split: str) -> int | None:
    """About how many bytes of text a split has, without reading it; None where its source cannot tell."""
    dataset = config.dataset
    if dataset.source == "files":
        low, high = share_of(config, split)
        files = [path for group in split_files(config, split) for path in group]
        # Text compresses to about a quarter.
        sizes = [path.stat().st_size * (4 if path.suffix in COMPRESSED else 1) for path in files]
        whole = int(sum(sizes) * (high - low))
    elif is_stored(config):
        whole = raw_manifest(config)["splits"][split]["bytes"]
    else:
        return dataset.max_bytes
    return whole if dataset.max_bytes is None else min(whole, dataset.max_bytes)


def nothing(config: Config, split: str, rows: int, empty: int, bad: BadDocuments | None) -> str:
    """Why a split has no document. rows, empty: that were bad, or without text; bad: where."""
    dataset = config.dataset
    said = f"dataset {dataset_name(config)}: no document in the split '{split}'"
    if rows or empty:
        places = [found[0] for found in bad.places.values() if found] if bad else []
        return "; ".join([f"{said}: of {rows + empty:,} rows {rows:,} are bad and {empty:,} empty", *places])
    if dataset.source == "files" and share_of(config, split) != (0.0, 1.0):
        return (
            f"{said}: what there is in dataset.path is too few for dataset.fractions; make the documents shorter "
            f"(dataset.text_unit: paragraph or line), change the fractions, or set dataset.{split}_path"
        )
    if dataset.max_bytes is not None:
        return f"{said}: the first one is larger than dataset.max_bytes={dataset.max_bytes}, or its source is empty"
    return f"{said}: its source is empty"
