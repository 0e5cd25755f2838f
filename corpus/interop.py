"""Token files of other programs <-> documents as arrays of ids, a block at a time.

    datasets   a folder of `save_to_disk`, a list of ids a row, in `input_ids`
    nanogpt    a bare .bin of uint16 (or uint32): all documents end to end, each ended by EOS
    llmc       the same behind a header of 256 int32: 20240520, 1, count (uint16), or 20240801, 7, count (uint32)
    megatron   a .bin of ids and an .idx that says where in it each sequence and each document begins

Nothing is held but a block (of a document that is longer: that document, mapped from its file).
"""

import glob
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpus.shards import ShardSet
from utils.files import atomic_folder, atomic_write, read_json, shown, write_json
from utils.messages import UserError

FORMATS = ("datasets", "nanogpt", "llmc", "megatron")
BLOCK = 1 << 22  # tokens that are read or written at once
ROWS = 1 << 10  # of a data set, and documents of Megatron's index

LLMC_HEADER = 256  # int32
LLMC: dict[tuple[int, int], np.dtype] = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
LLMC_LARGEST = 2**31 - 1  # tokens in a file: they are counted in an int32

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_HEAD = struct.Struct("<9sQBQQ")  # magic, version, code of the type, sequences, entries of the documents
MEGATRON_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats

NOTE = "liftoff.json"  # beside what is exported: whose ids these are


class Documents(NamedTuple):
    """Some whole documents, end to end."""

    tokens: np.ndarray  # (tokens,) any integers
    lengths: np.ndarray  # (documents,) int64


@dataclass
class Source:
    """What there is to read."""

    files: list[Path]
    documents: Iterator[Documents]
    notes: list[str] = field(default_factory=list)  # what the user should know of it


# ---- reading -------------------------------------------------------------------------------------------------------


def read(form: str, path: Path, split: str, eos: int | None, by_eos: bool = False, dtype: str = "uint16") -> Source:
    """Opens files of another program.

    form: one of FORMATS. path: a folder (datasets), one or several .bin (a file, a folder or a pattern), Megatron's
    prefix. split: which data set of a folder that holds several. eos: what flat files are cut after; None: a file is
    one document. by_eos: rows and sequences run on, and are cut there as well. dtype: of nanogpt's ids.
    Raises UserError where there is no such thing, or it is damaged.
    """
    if form in ("nanogpt", "llmc"):
        return _read_flat(form, path, eos, np.dtype(dtype).newbyteorder("<"))
    opened = _read_datasets(path, split) if form == "datasets" else _read_megatron(path)
    if by_eos:
        opened.documents = cut_after((part.tokens for part in opened.documents), eos)
    return opened


def cut_after(blocks: Iterable[np.ndarray], eos: int | None) -> Iterator[Documents]:
    """A stream of ids -> its documents, each ending with `eos`, the last one as it is."""
    carried: list[np.ndarray] = []
    for block in blocks:
        ends = np.flatnonzero(block == eos) + 1 if eos is not None else np.empty(0, np.int64)
        if len(ends):
            before = sum(map(len, carried))
            tokens = block[: ends[-1]] if not carried else np.concatenate([*carried, block[: ends[-1]]])
            yield Documents(tokens, np.diff(ends, prepend=-before))
            carried, block = [], block[ends[-1] :]
        if len(block):
            carried.append(block)
    if carried:
        rest = np.concatenate(carried)
        yield Documents(rest, np.array([len(rest)]))


def _read_flat(form: str, path: Path, eos: int | None, dtype: np.dtype) -> Source:
    if path.is_dir():
        files = sorted(path.glob("*.bin"))
    else:
        files = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    if not files:
        raise UserError(f"no {shown(path)}; name a .bin file, a folder of them, or a pattern in quotes")
    opened = [_open_flat(form, file, dtype) for file in files]

    def documents() -> Iterator[Documents]:
        for tokens in opened:
            if eos is None:
                yield Documents(tokens, np.array([len(tokens)], np.int64))
            else:
                yield from cut_after((tokens[at : at + BLOCK] for at in range(0, len(tokens), BLOCK)), eos)

    return Source(files, documents())


def _open_flat(form: str, path: Path, dtype: np.dtype) -> np.ndarray:
    """-> (tokens,), mapped"""
    size, start = path.stat().st_size, 0
    header = np.fromfile(path, "<i4", 3).tolist()
    known = LLMC.get((header[0], header[1])) if len(header) == 3 else None
    if form == "llmc":
        if known is None:
            raise UserError(f"{shown(path)} does not begin as files of llm.c do; a bare one is of format nanogpt")
        dtype, start = known, 4 * LLMC_HEADER
        if size != start + header[2] * dtype.itemsize:
            raise UserError(
                f"{shown(path)} has {size:,} bytes, but its header counts {header[2]:,} ids; fetch it again"
            )
    elif known is not None:
        raise UserError(f"{shown(path)} has the header of llm.c; its format is llmc")
    if (size - start) % dtype.itemsize:
        raise UserError(f"{shown(path)} is cut short, or not of {dtype.name}: {size:,} bytes")
    if size == start:
        raise UserError(f"{shown(path)} is empty")
    return np.memmap(path, dtype, mode="r", offset=start)


def _read_megatron(path: Path) -> Source:
    prefix = path.with_suffix("") if path.suffix in (".idx", ".bin") else path
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for part in (index, data):
        if not part.is_file():
            raise UserError(f"no {shown(part)}; name the prefix of Megatron's .bin and .idx")
    with open(index, "rb") as file:
        head = file.read(MEGATRON_HEAD.size)
    if len(head) < MEGATRON_HEAD.size or not head.startswith(MEGATRON_MAGIC):
        raise UserError(f"{shown(index)} is no index of Megatron's: it does not begin with MMIDIDX")
    _, version, code, sequences, entries = MEGATRON_HEAD.unpack(head)
    if version != 1 or code not in MEGATRON_TYPES:
        raise UserError(f"{shown(index)}: version {version}, type {code}; this reads version 1 of whole numbers")
    # After the lengths and the places there may be a mode for each sequence, of pictures and text: not read.
    if index.stat().st_size < MEGATRON_HEAD.size + 12 * sequences + 8 * entries:
        raise UserError(f"{shown(index)} is cut short; fetch it again")
    tokens = np.memmap(data, MEGATRON_TYPES[code], mode="r") if data.stat().st_size else np.empty(0, "<u2")
    rest = np.memmap(index, np.uint8, mode="r")[MEGATRON_HEAD.size :]
    lengths, places = rest[: 4 * sequences].view("<i4"), rest[4 * sequences : 12 * sequences].view("<i8")
    begins = rest[12 * sequences : 12 * sequences + 8 * entries].view("<i8")
    if not entries or begins[-1] != sequences:  # a last document that nobody has ended
        begins = np.append(begins, sequences)
    return Source([index, data], _megatron_documents(index, tokens, lengths, places, begins))


def _megatron_documents(
    index: Path, tokens: np.ndarray, lengths: np.ndarray, places: np.ndarray, begins: np.ndarray
) -> Iterator[Documents]:
    """lengths, places: (sequences,) in ids and in bytes. begins: (documents + 1,) the sequences where they begin.

    Raises UserError where sequences do not follow each other, or leave something out."""

    def check(is_right: bool) -> None:
        if not is_right:
            raise UserError(f"{shown(index)} does not fit its .bin: they are not of one data set, or damaged")

    at = 0
    check(begins[0] == 0)
    for first in range(0, len(begins) - 1, ROWS):
        bounds = begins[first : first + ROWS + 1]
        check(bool((np.diff(bounds) >= 0).all() and 0 <= bounds[0] and bounds[-1] <= len(lengths)))
        own = lengths[bounds[0] : bounds[-1]].astype(np.int64)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(own)])
        check(bool((own >= 0).all() and at + ends[-1] <= len(tokens)))
        check(bool((places[bounds[0] : bounds[-1]] == (at + ends[:-1]) * tokens.itemsize).all()))
        yield Documents(tokens[at : at + ends[-1]], np.diff(ends[bounds - bounds[0]]))
        at += int(ends[-1])
    check(at == len(tokens))


def _read_datasets(path: Path, split: str) -> Source:
    import datasets

    if not path.is_dir():
        raise UserError(f"no folder {shown(path)}; name what `save_to_disk` has written")
    try:
        data = datasets.load_from_disk(str(path))
    except Exception as problem:  # the library raises of everything
        raise UserError(f"{shown(path)} cannot be read by datasets: {str(problem).splitlines()[0]}") from problem
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UserError(f"{shown(path)} holds the splits {', '.join(data)}, no '{split}'; name one: {path}/SPLIT")
        data, path = data[split], path / split
    if "input_ids" not in data.column_names:
        raise UserError(f"{shown(path)} has no column input_ids, but {', '.join(data.column_names)}; rename it")
    others = [name for name in data.column_names if name != "input_ids"]
    notes = [f"not read: {', '.join(others)}; every token of a document is scored"] if others else []
    rows = data.select_columns(["input_ids"]).with_format("arrow")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != NOTE)
    return Source(files, _rows_of(path, rows), notes)


def _rows_of(path: Path, rows: Any) -> Iterator[Documents]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = rows.features.arrow_schema.field("input_ids").type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list and pa.types.is_integer(kind.value_type)):
        raise UserError(f"{shown(path)}: input_ids are of type {kind}, not lists of whole numbers")
    for table in rows.iter(batch_size=ROWS):
        column = table["input_ids"].combine_chunks()
        values = pc.list_flatten(column)
        if column.null_count or values.null_count:
            raise UserError(f"{shown(path)}: a row of input_ids is null, or has a null in it")
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        yield Documents(values.to_numpy(zero_copy_only=False), lengths)


def note_of(form: str, path: Path) -> dict[str, Any] | None:
    """What Liftoff has noted beside files that it exported; None where others made them."""
    at = _note_path(form, path)
    return read_json(at) if at.is_file() else None


def _note_path(form: str, path: Path) -> Path:
    if form == "datasets":
        return path / NOTE
    return path.with_name(f"{path.name.removesuffix('.bin').removesuffix('.idx')}.{NOTE}")


# ---- writing -------------------------------------------------------------------------------------------------------


def write(form: str, shards: ShardSet, path: Path, note: dict[str, Any]) -> list[Path]:
    """The documents of a split, in order, in files of another program. -> the files

    path: a folder (datasets), a .bin (nanogpt), a prefix (llmc, megatron). note: what is left beside them.
    Raises UserError where something is there already, or the format cannot hold it.
    """
    if shards.kind == "pairs" and form != "datasets":
        raise UserError(f"{shown(shards.directory)} holds pairs, which only the format datasets has a place for")
    if form == "nanogpt" and path.suffix != ".bin":
        path = path.with_name(f"{path.name}.bin")
    endings = {"llmc": "_*.bin", "megatron": ".[bi][id][nx]"}
    for there in path.parent.glob(glob.escape(path.name) + endings.get(form, "")):
        raise UserError(f"{shown(there)} is there already; choose another name, or move it away")
    if form == "datasets":
        return _write_datasets(shards, path, note)
    files = {"megatron": _write_megatron, "llmc": _write_llmc}.get(form, _write_nanogpt)(shards, path)
    write_json(_note_path(form, path), note)
    return files


def blocks_of(shards: ShardSet) -> Iterator[np.ndarray]:
    """All tokens of a split, in order."""
    for shard in shards.shards:
        for at in range(0, len(shard.tokens), BLOCK):
            yield shard.tokens[at : at + BLOCK]


def _write_nanogpt(shards: ShardSet, path: Path) -> list[Path]:
    with atomic_write(path) as file:
        for block in blocks_of(shards):
            file.write(block.astype(block.dtype.newbyteorder("<"), copy=False))
    return [path]


def _write_llmc(shards: ShardSet, path: Path) -> list[Path]:
    dtype = np.dtype(shards.manifest["dtype"]).newbyteorder("<")
    magic, version = next(key for key, kind in LLMC.items() if kind == dtype)
    files = []
    for number, first in enumerate(range(0, shards.n_tokens, LLMC_LARGEST)):
        last = min(shards.n_tokens, first + LLMC_LARGEST)
        header = np.zeros(LLMC_HEADER, "<i4")
        header[:3] = magic, version, last - first
        files.append(path.with_name(f"{path.name}_{number:06d}.bin"))
        with atomic_write(files[-1]) as file:
            file.write(header)
            at = 0
            for block in blocks_of(shards):
                file.write(np.ascontiguousarray(block[max(0, first - at) : max(0, last - at)], dtype))
                at += len(block)
    return files


def _write_megatron(shards: ShardSet, path: Path) -> list[Path]:
    """A document is a sequence. The index is written last: without it the .bin is nothing."""
    code, dtype = (8, np.dtype("<u2")) if shards.manifest["largest_id"] < 1 << 16 else (4, np.dtype("<i4"))
    longest = max((int(np.diff(shard.offsets).max(initial=0)) for shard in shards.shards), default=0)
    if longest >= 2**31:
        raise UserError(f"{shown(shards.directory)} has a document of {longest:,} tokens; Megatron counts to 2^31 - 1")
    data, index = Path(f"{path}.bin"), Path(f"{path}.idx")
    with atomic_write(data) as file:
        for block in blocks_of(shards):
            file.write(block.astype(dtype, copy=False))
    n = shards.n_documents
    with atomic_write(index) as file:
        file.write(MEGATRON_HEAD.pack(MEGATRON_MAGIC, 1, code, n, n + 1))
        for shard in shards.shards:
            file.write(np.diff(shard.offsets).astype("<i4"))
        for shard, first in zip(shards.shards, shards.first_token, strict=False):
            file.write(((shard.offsets[:-1] + first) * dtype.itemsize).astype("<i8"))
        for at in range(0, n + 1, BLOCK):
            file.write(np.arange(at, min(n + 1, at + BLOCK), dtype="<i8"))
    return [data, index]


def _write_datasets(shards: ShardSet, path: Path, note: dict[str, Any]) -> list[Path]:
    """A shard is an Arrow file. Where not all is scored there are `labels` as well, -100 where nothing is."""
    import pyarrow as pa

    columns = ["input_ids"] + (["labels"] if shards.kind != "text" else [])
    # `Sequence` is how the library wrote it before it was called `List`: older ones and newer ones read it.
    features = {name: {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "Sequence"} for name in columns}
    about = json.dumps({"info": {"features": features}})
    schema = pa.schema([(name, pa.list_(pa.int32())) for name in columns], {"huggingface": about})
    n, names = len(shards.shards), []
    with atomic_folder(path) as folder:
        for number, shard in enumerate(shards.shards):
            names.append(f"data-{number:05d}-of-{n:05d}.arrow")
            with pa.OSFile(str(folder / names[-1]), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
                first = 0
                while first < shard.n_documents:
                    last = int(np.searchsorted(shard.offsets, shard.offsets[first] + BLOCK, side="right")) - 1
                    last = min(max(last, first + 1), first + ROWS)
                    arrays = _arrow_rows(shard, first, last, len(columns) > 1)
                    stream.write_batch(pa.record_batch(arrays, schema=schema))
                    first = last
        write_json(folder / "dataset_info.json", {"features": features})
        write_json(folder / NOTE, note)
        state = {
            "_data_files": [{"filename": name} for name in names], "_format_columns": None, "_format_kwargs": {},
            "_format_type": None, "_output_all_columns": False, "_split": shards.manifest["split"],
            "_fingerprint": shards.manifest["settings"][:16],
        }  # fmt: skip
        write_json(folder / "state.json", state)
    return [path / name for name in names]


def _arrow_rows(shard: Any, first: int, last: int, with_labels: bool) -> list[Any]:
    """Documents first, …, last - 1 -> a list of ids for each, and of labels."""
    import pyarrow as pa

    def lists(values: np.ndarray, offsets: np.ndarray) -> Any:
        return pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), pa.array(values, pa.int32()))

    offsets = shard.offsets[first : last + 1]
    ids = shard.tokens[offsets[0] : offsets[-1]].astype(np.int32)
    if not with_labels:
        return [lists(ids, offsets)]
    if shard.target_tokens is not None:
        others = shard.target_offsets[first : last + 1]
        return [lists(ids, offsets), lists(shard.target_tokens[others[0] : others[-1]].astype(np.int32), others)]
    labels = np.full(len(ids), -100, np.int32)
    for document in range(first, last):
        for start, stop in shard.scored[shard.scored_offsets[document] : shard.scored_offsets[document + 1]]:
            at = shard.offsets[document] - offsets[0]
            labels[at + start : at + stop] = ids[at + start : at + stop]
    return [lists(ids, offsets), lists(labels, offsets)]
