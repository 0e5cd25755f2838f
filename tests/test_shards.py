"""The shard format: read by safetensors itself, cut where the documents say, and the same bytes every time."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_in_torch

from corpus.shard_writer import ShardWriter
from corpus.shards import (
    FORMAT_VERSION,
    GrowingTensors,
    ShardSet,
    Skipped,
    Tokens,
    dtype_for,
    map_tensors,
    read_about,
    totals,
    write_tensors,
)
from utils.files import write_json
from utils.hashing import sha256_file
from utils.messages import UserError


def tokens_of(lengths: list[int], first: int = 0, dtype: type = np.uint32, **more: object) -> Tokens:
    total = sum(lengths)
    return Tokens(
        tokens=np.arange(100, 100 + total, dtype=dtype),
        lengths=np.array(lengths, np.int64),
        addresses=np.arange(first, first + len(lengths)),
        n_bytes=np.full(len(lengths), 5),
        text=np.tile(np.array([[3, 2, 1]], np.int64), (len(lengths), 1)),
        **more,
    )


def test_other_programs_can_read_a_shard(tmp_path: Path) -> None:
    tensors = {
        "tokens": [np.arange(3, dtype=np.uint16), np.arange(2, dtype=np.uint16)],
        "offsets": [np.array([0, 3, 5])],
        "scored": [np.array([[1, 2]], np.int32), np.empty((0, 2), np.int32)],
    }
    sha256, size = write_tensors(tmp_path / "a.safetensors", tensors, {"said": "so"})
    assert (sha256, size) == (sha256_file(tmp_path / "a.safetensors"), (tmp_path / "a.safetensors").stat().st_size)
    read = load_file(tmp_path / "a.safetensors")
    assert read["tokens"].dtype == np.uint16 and read["tokens"].tolist() == [0, 1, 2, 0, 1]
    assert read["offsets"].dtype == np.int64 and read["scored"].tolist() == [[1, 2]]
    assert read_about(tmp_path / "a.safetensors") == {"said": "so"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("n_tokens", [0, 1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_what_follows_the_tokens_of_a_shard_is_aligned(tmp_path: Path, n_tokens: int, dtype: type) -> None:
    path = tmp_path / "a.safetensors"
    file = GrowingTensors(path, "tokens", np.dtype(dtype))
    for token in range(n_tokens):
        file.append(np.array([token], dtype))
    others = {"scored": [np.array([[1, 2]], np.int32)], "offsets": [np.array([0, n_tokens])]}
    sha256, size = file.finish(others, {"said": "so"})
    assert (sha256, size) == (sha256_file(path), path.stat().st_size)
    read, ours = load_file(path), map_tensors(path)
    padding = {"padding"} if n_tokens * np.dtype(dtype).itemsize % 8 else set()
    assert set(read) == set(ours) == {"tokens", "scored", "offsets"} | padding
    assert read["tokens"].dtype == dtype and read["tokens"].tolist() == list(range(n_tokens))
    assert read["offsets"].tolist() == [0, n_tokens] and read["scored"].tolist() == [[1, 2]]
    # torch refuses tensors that are not aligned.
    assert load_in_torch(path)["offsets"].tolist() == [0, n_tokens]
    assert all(values.flags.aligned for values in ours.values())
    assert read_about(path) == {"said": "so"} and [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_shard_has_a_name_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("linked", "copied"):
        folder = tmp_path / name
        folder.mkdir()
        writer = ShardWriter(folder, 0, np.dtype(np.uint16), 5, {})
        writer.add(tokens_of([3]))
        assert list(folder.iterdir()) == []
        if name == "copied":  # as on file systems that cannot link
            monkeypatch.setattr("os.link", lambda *given, **how: (_ for _ in ()).throw(OSError(95, "not supported")))
        writer.close()
        assert [path.name for path in folder.iterdir()] == [writer.records[0].file]
        assert (folder / writer.records[0].file).stat().st_mode & 0o777 == 0o666 & ~umask()
        found.append((folder / writer.records[0].file).read_bytes())
    assert found[0] == found[1]


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_ids_take_the_smallest_type_that_holds_them() -> None:
    assert dtype_for(65_536) == np.uint16 and dtype_for(65_537) == np.uint32


@pytest.mark.parametrize("cuts", [[6], [1, 2, 3], [2, 4], [0, 5, 1]])
def test_where_a_shard_ends_depends_on_the_documents_alone(tmp_path: Path, cuts: list[int]) -> None:
    lengths = [3, 4, 3, 20, 1, 9]  # at most 10 a shard: 3 + 4 + 3 | 20 | 1 + 9
    writer = ShardWriter(tmp_path, 2, np.dtype(np.uint16), 10, {"settings": "x"})
    first = 0
    for cut in cuts:
        batch = tokens_of(lengths[first : first + cut], first)
        writer.add(batch._replace(tokens=batch.tokens + sum(lengths[:first])))
        first += cut
    writer.close()
    assert [(record.documents, record.tokens, record.read_until) for record in writer.records] == [
        (3, 10, 3), (1, 20, 4), (2, 10, 6),
    ]  # fmt: skip
    assert writer.records[0].file == "part-00002-shard-00000.safetensors"
    assert load_file(tmp_path / writer.records[2].file)["offsets"].tolist() == [0, 1, 10]
    assert totals(writer.records)["bytes"] == 18 and totals(writer.records)["largest_id"] == 139
    # The bytes are those of one batch: golden, so that a change of the format is noticed.
    assert sha256_file(tmp_path / writer.records[0].file)[:16] == "8d62e0b4eb17e416"


def test_skipped_documents_are_counted_with_the_shard_that_follows(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 0, np.dtype(np.uint16), 5, {})
    batch = tokens_of([3, 3])._replace(
        addresses=np.array([1, 3]),
        skipped=(Skipped(0, "a", "", 7), Skipped(2, "b", "", 0), Skipped(4, "b", "", 0)),
        empty=np.array([2, 5, 6]),
    )
    writer.add(batch)
    writer.close()
    assert [(record.skipped, record.read_until) for record in writer.records] == [
        ({"a": 1}, 2), ({"b": 1, "empty": 1}, 4),
    ]  # fmt: skip
    # A document that was read and then refused counts towards the caps; a row that was none does not.
    assert [(record.read_documents, record.read_bytes) for record in writer.records] == [(2, 12), (3, 17)]
    assert writer.left_over() == {"b": 1, "empty": 2}


def test_rows_without_documents_take_no_memory(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 0, np.dtype(np.uint16), 1 << 20, {})
    tracemalloc.start()
    for batch in range(50):  # a document, and 2,000 empty lines behind it; of the first batches there is no document
        begun = batch * 10_000
        documents = tokens_of([3] * (batch > 30), begun)
        writer.add(documents._replace(empty=begun + 1 + np.arange(2_000)))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    writer.close()
    assert held < 1_000_000  # 100,000 of them
    assert [record.skipped for record in writer.records] == [{"empty": 98_000}] and writer.left_over() == {
        "empty": 2_000
    }


def open_set(folder: Path) -> ShardSet:
    return ShardSet.open(folder, "train")


def test_a_set_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    with pytest.raises(UserError, match="make it with: python tokenize_data.py"):
        open_set(tmp_path)
    folder.mkdir()
    writer = ShardWriter(folder, 0, np.dtype(np.uint16), 5, {})
    writer.add(tokens_of([3, 3, 3]))
    writer.close()
    manifest = {
        "format": "liftoff token shards", "format_version": FORMAT_VERSION, "kind": "text", **totals(writer.records),
        "shards": [vars(record) for record in writer.records],
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    shards = open_set(tmp_path)
    assert shards.n_tokens == 9 and [shard.tokens.tolist() for shard in shards.shards][1] == [103, 104, 105]
    with open(folder / writer.records[1].file, "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="not as long as its manifest says"):
        open_set(tmp_path)
    (folder / writer.records[1].file).unlink()
    with pytest.raises(UserError, match="shard-00001.safetensors is missing"):
        open_set(tmp_path)
    write_json(folder / "manifest.json", {**manifest, "format_version": 99})
    with pytest.raises(UserError, match="format version 99"):
        open_set(tmp_path)
    write_json(folder / "manifest.json", {"something": "else"})
    with pytest.raises(UserError, match="not the manifest of token shards"):
        open_set(tmp_path)
