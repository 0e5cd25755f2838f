"""A config and a split -> its documents, one at a time, always in the same order, in constant memory.

    source (files, raw text of the Hub, a function …) -> rows -> split, fields -> documents

Rows that give no document are counted with their place, and stop the stage or are skipped as the config says.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.places import REPOSITORY, dataset_name, raw_dir, splits
from configs.schema import Config
from corpus import reading, synthetic
from corpus.fields import OF_KIND, BadRecord, Fields, texts_of
from corpus.reading import Row
from corpus.splitting import CUT, place_of, share
from utils.files import read_json, shown
from utils.hashing import sha256_file, sha256_json
from utils.imports import check_arguments, import_object
from utils.messages import UserError

RAW_FORMAT = 1  # of the raw folder and its manifest
DOWNLOAD = "python -m data_setup.download_dataset CONFIG"  # what makes it


@dataclass(slots=True)
class Document:
    """What is tokenised as one: its fields by kind, and where it stands ("file:line")."""

    fields: dict[str, Any]
    where: str

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of its text."""
        return sum(len(text.encode()) for text in texts_of(self.fields))


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
        if len(self.places[reason]) < 3:
            self.places[reason].append(said)

    def rows(self) -> list[tuple[str, str]]:
        """For the table at a stage's end; empty where all was well."""
        rows = [
            (f"skipped, {reason}", f"{count:,}\n" + "\n".join(self.places[reason]))
            for reason, count in self.counts.items()
        ]
        return rows + ([("empty, left out", f"{self.empty:,}")] if self.empty else [])


def has_split(config: Config, split: str) -> bool:
    """Whether the config says where the split's documents come from. (There may still turn out to be none.)"""
    dataset = config.dataset
    if dataset.source == "files":
        low, high = _share(config, split)
        return high > low
    if dataset.source in ("hub", "sample"):
        return split in _raw_manifest(config)["splits"]
    return True


def read_documents(config: Config, split: str, *, on_bad: BadDocuments | None = None) -> Iterator[Document]:
    """The documents of a split, up to dataset.max_documents and dataset.max_bytes.

    split: a name of `configs.places.splits`. on_bad: collects what could not be read.
    Raises UserError where the source cannot be read, where a document is bad and that stops the stage, and at the end
    where there was no document at all. A split that the config does not have is empty.
    """
    on_bad = on_bad or BadDocuments(config.tokenize.bad_documents)
    if not has_split(config, split):
        return
    fields = Fields(config)
    low, high = _share(config, split)
    longest = config.tokenize.max_document_bytes
    documents = n_bytes = rows = 0
    for index, row in enumerate(_rows(config, split)):
        rows += 1
        if (low, high) != (0.0, 1.0) and not low <= place_of(index) < high:
            continue
        document = _document(row, fields, on_bad)
        if document is None:
            continue
        try:
            size = document.n_bytes
        except UnicodeEncodeError:
            on_bad.add(row.where, "not text", "a lone surrogate, half a character of UTF-16")
            continue
        if size > longest:
            on_bad.add(row.where, "too long", f"{size:,} bytes, tokenize.max_document_bytes is {longest:,}")
            continue
        if dataset_full(config, documents + 1, n_bytes + size):
            break
        documents, n_bytes = documents + 1, n_bytes + size
        yield document
    if not documents:
        raise UserError(_nothing(config, split, rows, on_bad))


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
        files = [path for group in _files(config, split) for path in group]
        seen["files"] = [[reading.kind_of(path), sha256_file(path)] for path in files]
    elif dataset.source in ("hub", "sample"):
        seen["files"] = [entry["sha256"] for entry in _raw_manifest(config)["splits"][split]["files"]]
    elif dataset.source != "synthetic":
        function = import_object(dataset.source, "dataset.source")
        code = Path(function.__code__.co_filename)
        seen["function"] = [dataset.source, split, dataset.arguments, sha256_file(code)]
    return sha256_json(seen)


def input_settings(config: Config, split: str) -> dict[str, Any]:
    """The settings that choose what is read of a source, wherever it lies. As JSON holds them; nothing is opened."""
    dataset = config.dataset
    seen: dict[str, Any] = {
        "share": list(_share(config, split)),
        "kind": dataset.kind,
        "fields": Fields(config).sources,
        "caps": [dataset.max_documents, dataset.max_bytes],
    }
    if dataset.source == "files":
        seen["text_unit"] = dataset.text_unit
    elif dataset.source == "synthetic":
        seen["synthetic"] = [synthetic.VERSION, split, dataset.arguments]
    return seen


def estimated_bytes(config: Config, split: str) -> int | None:
    """About how many bytes of text a split has, without reading it; None where its source cannot tell."""
    dataset = config.dataset
    if dataset.source == "files":
        low, high = _share(config, split)
        files = [path for group in _files(config, split) for path in group]
        # Text compresses to about a quarter.
        sizes = [path.stat().st_size * (4 if path.suffix in reading.COMPRESSED else 1) for path in files]
        whole = int(sum(sizes) * (high - low))
    elif dataset.source in ("hub", "sample"):
        whole = _raw_manifest(config)["splits"][split]["bytes"]
    else:
        return dataset.max_bytes
    return whole if dataset.max_bytes is None else min(whole, dataset.max_bytes)


def raw_settings(config: Config) -> dict[str, Any]:
    """The settings that decide what lies in the raw folder: its manifest holds them, and they must still be these."""
    dataset = config.dataset
    settings: dict[str, Any] = {
        "source": dataset.source,
        "max_documents": dataset.max_documents,
        "max_bytes": dataset.max_bytes,
    }
    if dataset.source == "sample":
        settings["fractions"] = dict(dataset.fractions)
    if dataset.source == "hub":
        names = ("name", "subset", "revision", "splits", "fractions")
        settings |= {name: getattr(dataset, name) for name in names}
        if dataset.max_bytes is not None:  # the text is measured as it is read
            settings |= {"kind": dataset.kind, "fields": dataset.fields}
    return settings


def _document(row: Row, fields: Fields, on_bad: BadDocuments) -> Document | None:
    if row.record is None:
        on_bad.add(row.where, row.reason, row.detail)
        return None
    try:
        document = Document(fields.of(row.record), row.where)
    except BadRecord as problem:
        on_bad.add(row.where, problem.reason, problem.detail)
        return None
    if fields.is_empty(document.fields):
        on_bad.empty += 1
        return None
    return document


def _rows(config: Config, split: str) -> Iterator[Row]:
    dataset = config.dataset
    longest = config.tokenize.max_document_bytes
    if dataset.source == "files":
        for group in _files(config, split):
            if len(group) == 2:
                names = list(OF_KIND[dataset.kind])
                yield from reading.parallel_rows(group, names, longest)
            else:
                yield from reading.rows_of(group[0], dataset.text_unit, longest)
    elif dataset.source in ("hub", "sample"):
        for entry in _raw_manifest(config)["splits"][split]["files"]:
            path = raw_dir(config) / entry["name"]
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise UserError(f"{shown(path)} is not what its manifest says; make it again with {DOWNLOAD} --restart")
            yield from reading.rows_of(path, "file", longest)
    elif dataset.source == "synthetic":
        check_arguments(synthetic.documents, dataset.arguments, "dataset.arguments", ("split", "kind"))
        records = synthetic.documents(split, dataset.kind, **dataset.arguments)
        yield from (Row(f"synthetic {split}:{number}", record) for number, record in enumerate(records, 1))
    else:
        yield from _function_rows(config, split)


def _function_rows(config: Config, split: str) -> Iterator[Row]:
    dataset = config.dataset
    function = import_object(dataset.source, "dataset.source")
    check_arguments(function, dataset.arguments, "dataset.arguments", ("split",))
    for number, record in enumerate(function(split, **dataset.arguments), 1):
        where = f"{dataset.source}('{split}'):{number}"
        if isinstance(record, str):
            yield Row(where, {"text": record})
        elif isinstance(record, dict):
            yield Row(where, record)
        else:
            yield Row(where, None, "not text", f"a function yields dicts or text, not {type(record).__name__}")


def _share(config: Config, split: str) -> tuple[float, float]:
    """The part of the documents of its source that the split has: (0, 1) is all, (0, 0) none."""
    dataset = config.dataset
    if dataset.source != "files":
        return 0.0, 1.0
    if _own_path(config, split) is not None:
        return 0.0, 1.0
    if dataset.path is None or split not in CUT:
        return 0.0, 0.0
    return share(dataset, split, tuple(name for name in CUT if _own_path(config, name) is None))


def _own_path(config: Config, split: str) -> str | list[str] | None:
    """The path that the config gives for this split alone."""
    dataset = config.dataset
    if split == "train":
        return dataset.train_path
    if split == "test":
        return dataset.test_path
    if isinstance(dataset.validation_path, dict):
        return dataset.validation_path.get(split)
    return dataset.validation_path if split == "validation" else None


def _files(config: Config, split: str) -> list[list[Path]]:
    """The files of a split, in order: each by itself, or two that belong together line by line."""
    path = _own_path(config, split) or config.dataset.path
    if path is None:
        known = ", ".join(splits(config))
        raise UserError(
            f"dataset: no path for the split '{split}' of {known}; set dataset.path, or dataset.{split}_path"
        )
    if isinstance(path, str):
        return [[file] for file in reading.find(REPOSITORY / path)]
    if len(path) != 2 or len(OF_KIND[config.dataset.kind]) != 2:
        raise UserError(
            "dataset: a list of paths is two line-parallel files of kind pairs or prompt_response; this is "
            f"{len(path)} of kind {config.dataset.kind}. A folder or a pattern names many files"
        )
    pair = [reading.find(REPOSITORY / one) for one in path]
    if [len(files) for files in pair] != [1, 1]:
        raise UserError(f"dataset: line-parallel paths name one file each: {path[0]}, {path[1]}")
    return [[pair[0][0], pair[1][0]]]


def _raw_manifest(config: Config) -> dict[str, Any]:
    folder = raw_dir(config)
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"no raw text in {shown(folder)}; make it with {DOWNLOAD}")
    manifest = read_json(path)
    differing = differences(manifest.get("settings", {}), raw_settings(config))
    if manifest.get("format_version") != RAW_FORMAT:
        differing = [f"format {manifest.get('format_version')} instead of {RAW_FORMAT}"]
    if differing:
        raise UserError(
            f"the raw text in {shown(folder)} was made with other settings: {'; '.join(differing)}. Make it again with "
            f"{DOWNLOAD} --restart, or choose another place with dataset.raw_path"
        )
    return manifest


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """["key: 1 there, 2 in the config", …] of two groups of settings; of hashes only their beginnings."""

    def said(value: Any) -> str:
        is_hash = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
        return f"{value[:12]}…" if is_hash else repr(value)

    keys = itertools.chain(old, (key for key in new if key not in old))
    return [
        f"{key}: {said(old.get(key))} there, {said(new.get(key))} in the config"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def _nothing(config: Config, split: str, rows: int, on_bad: BadDocuments) -> str:
    dataset = config.dataset
    said = f"dataset {dataset_name(config)}: no document in the split '{split}'"
    bad = sum(on_bad.counts.values())
    if bad or on_bad.empty:
        return f"{said}: of {rows:,} rows {bad:,} are bad and {on_bad.empty:,} empty" + "".join(
            f"; {places[0]}" for places in on_bad.places.values()
        )
    if not rows:
        return f"{said}: its source is empty"
    if dataset.source == "files" and _share(config, split) != (0.0, 1.0):
        return (
            f"{said}: all of dataset.path is {rows:,} documents, too few for dataset.fractions; make them shorter "
            f"(dataset.text_unit: paragraph or line), change the fractions, or set dataset.{split}_path"
        )
    return f"{said}: the first one is larger than dataset.max_bytes={dataset.max_bytes}"
