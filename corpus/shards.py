"""Token shards: tokenised documents -> files that training maps into memory, and back.

A split is a folder of safetensors files, `part-PPPPP-shard-SSSSS.safetensors`, finished by a `manifest.json`. A shard
holds `tokens` and `offsets` (documents + 1); where only part of a document is scored also `scored` (spans x 2, places
within the document) and `scored_offsets`; for pairs `target_tokens` and `target_offsets`. No document crosses shards.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from utils.files import atomic_write, give_name, read_json, unnamed_file, user_errors
from utils.hashing import sha256_json
from utils.messages import UserError

FORMAT = "liftoff token shards"
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
SETTINGS = "settings.json"  # what a folder is being made with, written before the first shard
HEAD_BYTES = 4096  # of a shard: where its tokens begin
SEAL = "checksum"  # of all else that a manifest, or the file of a part, says


class Skipped(NamedTuple):
    """A row without tokens, for another reason than that it is empty."""

    address: int
    reason: str  # what is counted
    detail: str  # what is said beside it
    n_bytes: int  # of text, where it was a document that could be read; else 0


class Tokens(NamedTuple):
    """Some documents, tokenised: their arrays end to end, and how much of them is each document's."""

    tokens: np.ndarray  # (tokens,) uint32
    lengths: np.ndarray  # (documents,) int64
    addresses: np.ndarray  # (documents,) int64: where in the source each stands; increasing
    n_bytes: np.ndarray  # (documents,) int64: UTF-8 bytes of all its text
    text: np.ndarray  # (documents, 3) int64: UTF-8 bytes, words and lines of the scored text
    scored: np.ndarray | None = None  # (spans, 2) int32: places within the document
    scored_lengths: np.ndarray | None = None  # (documents,) int64: spans
    target_tokens: np.ndarray | None = None
    target_lengths: np.ndarray | None = None
    skipped: tuple[Skipped, ...] = ()
    empty: np.ndarray = np.empty(0, np.int64)  # (rows,): addresses of rows without text, which may be many; increasing

    def sizes(self) -> np.ndarray:
        """(documents,) int64: tokens of both sides"""
        return self.lengths if self.target_lengths is None else self.lengths + self.target_lengths

    def as_type(self, dtype: np.dtype) -> "Tokens":
        """The same with ids of another width."""
        targets = None if self.target_tokens is None else self.target_tokens.astype(dtype, copy=False)
        return self._replace(tokens=self.tokens.astype(dtype, copy=False), target_tokens=targets)

    def before(self, address: int) -> "Tokens":
        """What stands before an address."""
        kept = self.cut(0, int(np.searchsorted(self.addresses, address)))
        return kept._replace(
            skipped=tuple(one for one in self.skipped if one.address < address),
            empty=self.empty[: np.searchsorted(self.empty, address)],
        )

    def cut(self, first: int, last: int) -> "Tokens":
        """The documents first, …, last - 1 (views; rows without tokens are not carried)."""

        def part(values: np.ndarray | None, lengths: np.ndarray | None) -> np.ndarray | None:
            if values is None or lengths is None:
                return None
            start = int(lengths[:first].sum())
            return values[start : start + int(lengths[first:last].sum())]

        def rows(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[first:last]

        return Tokens(
            part(self.tokens, self.lengths), rows(self.lengths), rows(self.addresses), rows(self.n_bytes),
            rows(self.text), part(self.scored, self.scored_lengths), rows(self.scored_lengths),
            part(self.target_tokens, self.target_lengths), rows(self.target_lengths),
        )  # fmt: skip


def joined(parts: list[Tokens]) -> Tokens:
    """Tokens of documents that follow each other."""
    if len(parts) == 1:
        return parts[0]

    def run(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    skipped = tuple(one for part in parts for one in part.skipped)
    return Tokens(**{name: run(name) for name in Tokens._fields if name != "skipped"}, skipped=skipped)


@dataclass
class ShardRecord:
    """What the manifest says of one shard. All but the first three also stand in the shard's own header, so that a
    folder whose making was cut short can be gone on with."""

    file: str
    sha256: str
    size: int  # bytes of the file
    part: int
    shard: int
    documents: int = 0
    tokens: int = 0
    target_tokens: int = 0
    scored_tokens: int = 0
    bytes: int = 0
    words: int = 0
    lines: int = 0
    largest_id: int = -1
    read_until: int = 0  # address up to which this shard and those before it have used up the source
    read_documents: int = 0  # of the part until there, with those that were refused after reading
    read_bytes: int = 0  # their text
    input: str = ""  # hash of the units of the part before the one that read_until lies in
    skipped: dict[str, int] = field(default_factory=dict)  # since the shard before


def shard_name(part: int, shard: int) -> str:
    """The file of a shard, both counted from 0."""
    return f"part-{part:05d}-shard-{shard:05d}.safetensors"


def dtype_for(vocab_size: int) -> np.dtype:
    """Smallest of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


Written = tuple[str, int]  # sha256 and size of a file


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: Any) -> None:
        self.file, self.hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> None:
        """bytes, or an array that is contiguous."""
        data = memoryview(data).cast("B") if not isinstance(data, bytes) else data
        self.hash.update(data)
        self.file.write(data)
        self.size += len(data)


class Pieces(Protocol):
    """A tensor in pieces, which are made when they are written."""

    dtype: np.dtype
    rows: int
    width: int  # of a row; 0 for numbers

    def __iter__(self) -> Iterator[np.ndarray]: ...


def write_tensors(path: Path, tensors: Mapping[str, list[np.ndarray] | Pieces], about: dict[str, Any]) -> Written:
    """A safetensors file, written whole or not at all. Each tensor is given as pieces, never joined in memory.

    about: kept in the header as JSON. -> sha256 of the file, its size in bytes.
    """
    # Widest first, as safetensors itself does: everything is aligned then.
    layouts = {name: _layout(pieces) for name, pieces in tensors.items()}
    order = sorted(tensors, key=lambda name: (-layouts[name][0].itemsize, name))
    head = _head({name: layouts[name] for name in order}, about)
    with atomic_write(path) as file:
        out = _Hashing(file)
        out.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            for piece in tensors[name]:
                if piece.size:
                    out.write(np.ascontiguousarray(piece))
    return out.hash.hexdigest(), out.size


class GrowingTensors:
    """A safetensors file of which the first tensor grows while nobody knows how long it will be. It is written to where
    it will stay: the header has a fixed size, and after that tensor a few bytes, `padding`, may align the others."""

    def __init__(self, path: Path, name: str, dtype: np.dtype) -> None:
        """name: of the tensor. Raises UserError where the file cannot be written."""
        self.path, self.name, self.dtype, self.rows = path, name, np.dtype(dtype), 0
        with user_errors(path):
            self.file = unnamed_file(path.parent)
            self.file.seek(HEAD_BYTES)

    def append(self, values: np.ndarray) -> None:
        """Adds values of the dtype. Raises UserError where the disk is full."""
        with user_errors(self.path):
            self.file.write(np.ascontiguousarray(values, self.dtype).view(np.uint8))
        self.rows += len(values)

    def finish(self, others: Mapping[str, list[np.ndarray] | Pieces], about: dict[str, Any]) -> Written:
        """Writes the other tensors, and the file appears. about, -> as for `write_tensors`."""
        padding = np.zeros(-self.rows * self.dtype.itemsize % 8, np.uint8)
        layouts = {name: _layout(pieces) for name, pieces in others.items()}
        order = sorted(others, key=lambda name: (-layouts[name][0].itemsize, name))
        first = {self.name: (self.dtype, [self.rows])}
        if len(padding):
            first["padding"] = (padding.dtype, [len(padding)])
        head = _head({**first, **{name: layouts[name] for name in order}}, about)
        assert len(head) <= HEAD_BYTES - 8, len(head)
        with user_errors(self.path):
            self.file.write(padding)
            for name in order:
                for piece in others[name]:
                    self.file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8))
            size = self.file.tell()
            self.file.seek(0)
            self.file.write((HEAD_BYTES - 8).to_bytes(8, "little") + head.ljust(HEAD_BYTES - 8))
            self.file.seek(0)
            sha256 = hashlib.file_digest(self.file, "sha256").hexdigest()
        give_name(self.file, self.path)
        return sha256, size


def _head(layouts: Mapping[str, tuple[np.dtype, list[int]]], about: dict[str, Any]) -> bytes:
    """The header of a safetensors file, a multiple of 8 bytes. layouts: dtype and shape of each tensor, in order."""
    names = {
        np.dtype(np.uint8): "U8",
        np.dtype(np.uint16): "U16",
        np.dtype(np.uint32): "U32",
        np.dtype(np.int32): "I32",
        np.dtype(np.int64): "I64",
    }
    header: dict[str, Any] = {"__metadata__": {"liftoff": json.dumps(about, sort_keys=True)}}
    start = 0
    for name, (dtype, shape) in layouts.items():
        stop = start + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    head = json.dumps(header, separators=(",", ":")).encode()
    return head + b" " * (-len(head) % 8)


def _layout(pieces: list[np.ndarray] | Pieces) -> tuple[np.dtype, list[int]]:
    """-> dtype, shape"""
    if isinstance(pieces, list):
        return pieces[0].dtype, [sum(len(piece) for piece in pieces), *pieces[0].shape[1:]]
    return pieces.dtype, [pieces.rows, pieces.width] if pieces.width else [pieces.rows]


def read_about(path: Path) -> dict[str, Any]:
    """The JSON that `write_tensors` kept in the header."""
    return json.loads(_header(path)[0]["__metadata__"]["liftoff"])


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """-> header of a safetensors file, place of its first tensor"""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise UserError(f"{path} is cut short; make the shards again with --restart")
        return json.loads(file.read(size)), 8 + size


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file, mapped into memory: read when looked at, shared between processes."""
    header, start = _header(path)
    types = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I32": np.int32, "I64": np.int64}
    data = np.memmap(path, np.uint8, mode="r")
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            if start + last > len(data):
                raise UserError(f"{path} is cut short; make the shards again with --restart")
            values = np.frombuffer(data[start + first : start + last], types[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def offsets_of(lengths: list[np.ndarray]) -> np.ndarray:
    """Lengths, in pieces -> where each begins, and where the last one ends. int64"""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))])


def finished_shard(path: Path, sha256: str) -> ShardRecord:
    """The record of a shard that an earlier, unfinished run left. sha256: of the file."""
    return ShardRecord(path.name, sha256, path.stat().st_size, **read_about(path)["shard"])


class Shard:
    """One file: its tensors mapped into memory, and the spans that are scored."""

    def __init__(self, path: Path, record: ShardRecord) -> None:
        tensors = map_tensors(path)
        self.path, self.record = path, record
        self.tokens, self.offsets = tensors["tokens"], tensors["offsets"]
        self.scored, self.scored_offsets = tensors.get("scored"), tensors.get("scored_offsets")
        self.target_tokens, self.target_offsets = tensors.get("target_tokens"), tensors.get("target_offsets")

    @property
    def n_documents(self) -> int:
        """How many documents it holds."""
        return len(self.offsets) - 1


class ShardSet:
    """The shards of one split, in order: all parts' documents run together."""

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory, self.manifest = directory, manifest
        records = [ShardRecord(**entry) for entry in manifest["shards"]]
        self.shards = [Shard(directory / record.file, record) for record in records]
        self.kind: str = manifest["kind"]
        self.n_documents: int = manifest["documents"]
        self.n_tokens: int = manifest["tokens"]
        # Of the first token and the first document of each shard, in the stream of all; and one more, the end.
        self.first_token = offsets_of([np.array([record.tokens for record in records], np.int64)])
        self.first_target = offsets_of([np.array([record.target_tokens for record in records], np.int64)])
        self.first_document = offsets_of([np.array([record.documents for record in records], np.int64)])

    @classmethod
    def open(cls, directory: str | Path, split: str) -> "ShardSet":
        """Maps a finished split. Raises UserError where it is unfinished, of another format or incomplete."""
        folder = Path(directory) / split
        path = folder / MANIFEST
        if not path.exists():
            raise UserError(f"no {path}; make it with: python tokenize_data.py CONFIG")
        manifest = read_manifest(path)
        for entry in manifest["shards"]:
            file = folder / entry["file"]
            if not file.exists() or file.stat().st_size != entry["size"]:
                raise UserError(
                    f"{file} {'is not as long as its manifest says' if file.exists() else 'is missing'}; "
                    f"make the shards again with: python tokenize_data.py CONFIG --restart"
                )
        return cls(folder, manifest)

    def __reduce__(self) -> tuple:
        """Worker processes map the files again instead of being sent their contents."""
        return ShardSet, (self.directory, self.manifest)


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the checksum of all that it says."""
    return {**record, SEAL: sha256_json(record)}


def is_whole(record: Any) -> bool:
    """Whether a sealed record says what it said when it was written."""
    if not isinstance(record, dict) or SEAL not in record:
        return False
    return record[SEAL] == sha256_json({key: value for key, value in record.items() if key != SEAL})


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a split. Raises UserError where it is damaged, or not one that this version reads."""
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not the manifest of token shards; is tokenize.path another stage's folder?")
    if manifest["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {manifest['format_version']}, this code reads {FORMAT_VERSION}; "
            f"make the shards again with: python tokenize_data.py CONFIG --restart"
        )
    if SEAL in manifest and not is_whole(manifest):
        raise UserError(
            f"{path} is damaged: it does not say what was written; make the shards again with: "
            "python tokenize_data.py CONFIG --restart"
        )
    return manifest


def totals(records: list[ShardRecord]) -> dict[str, int]:
    """The sums that a manifest states of its shards, and their largest id."""
    names = ("documents", "tokens", "target_tokens", "scored_tokens", "bytes", "words", "lines")
    sums = {name: sum(getattr(record, name) for record in records) for name in names}
    return {**sums, "largest_id": max(record.largest_id for record in records)}
