"""Token files of other programs: theirs are read, ours are read by them, and the ids are the same all the way round."""

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.loading import load_config
from corpus import interop
from corpus.importing import import_tokens
from corpus.interop import cut_after, read, write
from corpus.shards import ShardRecord, ShardSet, write_tensors
from corpus.tokenising import tokenise
from dataset import LanguageModelData
from models.interface import ModelFacts
from tests.doors import door
from tests.small_data import config_for, small_tokenizer, write_documents
from tokenizer.tokenizer import Tokenizer
from utils.messages import UserError
from utils.yaml_writing import to_yaml

EOS = 1


def documents_of(seed: int, n: int = 40, largest: int = 299) -> list[list[int]]:
    """Random ids, each ended by EOS; some documents are nothing else."""
    chance = random.Random(seed)
    return [[chance.randint(2, largest) for _ in range(chance.choice([0, 1, 5, 60]))] + [EOS] for _ in range(n)]


def shards_of(folder: Path, documents: list[list[int]], cuts: int = 3, dtype: str = "uint16", **more: Any) -> ShardSet:
    """A split of `cuts` shards, made without the pipeline."""
    records, per = [], -(-len(documents) // cuts)
    for number in range(cuts):
        some = documents[number * per : (number + 1) * per]
        tokens = np.array([i for ids in some for i in ids], dtype)
        tensors = {"tokens": [tokens], "offsets": [np.cumsum([0, *map(len, some)])]}
        for name, of_each in more.get("tensors", {}).items():
            tensors[name] = of_each[number]
        file = f"part-00000-shard-{number:05d}.safetensors"
        sha256, size = write_tensors(folder / "train" / file, tensors, {})
        records.append(ShardRecord(file, sha256, size, 0, number, documents=len(some), tokens=len(tokens)))
    manifest = {
        "kind": more.get("kind", "text"), "split": "train", "documents": len(documents), "dtype": dtype,
        "tokens": sum(map(len, documents)), "largest_id": max(map(max, documents)), "settings": "0" * 64,
        "shards": [vars(record) for record in records],
    }  # fmt: skip
    return ShardSet(folder / "train", manifest)


def all_of(parts: Any) -> list[list[int]]:
    found = []
    for tokens, lengths in parts:
        assert tokens.shape == (lengths.sum(),)
        found += [ids.tolist() for ids in np.split(tokens, np.cumsum(lengths)[:-1])]
    return found


@pytest.mark.parametrize("form", interop.FORMATS)
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("block", [7, 1 << 22])
def test_what_is_written_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, dtype: str, block: int
) -> None:
    monkeypatch.setattr(interop, "BLOCK", block)
    monkeypatch.setattr(interop, "ROWS", 3 if block == 7 else 1024)
    documents = documents_of(1, largest=299 if dtype == "uint16" else 100_000)
    shards = shards_of(tmp_path, documents, dtype=dtype)
    write(form, shards, tmp_path / "out", {"said": "so"})
    path = tmp_path / {"nanogpt": "out.bin", "llmc": "out_*.bin"}.get(form, "out")
    assert all_of(read(form, path, "train", EOS, dtype=dtype).documents) == documents
    note = interop.note_of(form, tmp_path / "out")
    assert note == {"said": "so"}
    with pytest.raises(UserError, match="is there already"):
        write(form, shards, tmp_path / "out", {})


def test_flat_files_are_what_nanogpt_and_llmc_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = documents_of(2)
    stream = sum(documents, [])
    shards = shards_of(tmp_path, documents)
    write("nanogpt", shards, tmp_path / "train.bin", {})
    assert np.memmap(tmp_path / "train.bin", np.uint16, mode="r").tolist() == stream
    monkeypatch.setattr(interop, "LLMC_LARGEST", 100)
    files = write("llmc", shards, tmp_path / "sample", {})
    assert [file.name for file in files][:2] == ["sample_000000.bin", "sample_000001.bin"]
    read_back = []
    for file in files:
        header, ids = np.fromfile(file, np.int32, 256), np.fromfile(file, np.uint16, offset=1024)
        assert header[:3].tolist() == [20240520, 1, len(ids)] and not header[3:].any()
        read_back += ids.tolist()
    assert read_back == stream
    wide = shards_of(tmp_path / "wide", documents_of(2, largest=100_000), dtype="uint32")
    (file, *_) = write("llmc", wide, tmp_path / "wide", {})
    assert np.fromfile(file, np.int32, 2).tolist() == [20240801, 7]


def read_megatron(prefix: Path) -> tuple[list[list[int]], list[int]]:
    """A reader of the published layout, apart from ours: -> sequences, document indices."""
    raw, data = Path(f"{prefix}.idx").read_bytes(), Path(f"{prefix}.bin").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00" and struct.unpack_from("<Q", raw, 9) == (1,)
    (code,) = struct.unpack_from("<B", raw, 17)
    letter = {4: "i", 8: "H"}[code]
    sequences, entries = struct.unpack_from("<QQ", raw, 18)
    lengths = struct.unpack_from(f"<{sequences}i", raw, 34)
    pointers = struct.unpack_from(f"<{sequences}q", raw, 34 + 4 * sequences)
    indices = struct.unpack_from(f"<{entries}q", raw, 34 + 12 * sequences)
    assert len(raw) == 34 + 12 * sequences + 8 * entries
    found = [list(struct.unpack_from(f"<{n}{letter}", data, at)) for n, at in zip(lengths, pointers, strict=True)]
    return found, list(indices)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_megatron_reads_what_is_written(tmp_path: Path, dtype: str) -> None:
    documents = documents_of(3, largest=299 if dtype == "uint16" else 100_000)
    write("megatron", shards_of(tmp_path, documents, dtype=dtype), tmp_path / "out", {})
    assert read_megatron(tmp_path / "out") == (documents, list(range(len(documents) + 1)))


def test_megatron_itself_reads_what_is_written(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")  # pip install --no-deps megatron-core
    documents = documents_of(3)
    write("megatron", shards_of(tmp_path, documents), tmp_path / "out", {})
    theirs = indexed.IndexedDataset(str(tmp_path / "out"))
    assert [theirs[i].tolist() for i in range(len(theirs))] == documents
    assert theirs.document_indices.tolist() == list(range(len(documents) + 1))


def write_megatron(prefix: Path, sequences: list[list[int]], begins: list[int], code: int, modes: bytes = b"") -> None:
    """As Megatron writes them: documents of several sequences, any type of whole numbers."""
    dtype = {1: np.uint8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}[code]
    lengths = np.array(list(map(len, sequences)), np.int32)
    places = (np.cumsum([0, *lengths[:-1]]) * np.dtype(dtype).itemsize).astype(np.int64)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sequences), len(begins))
    Path(f"{prefix}.idx").write_bytes(
        head + lengths.tobytes() + places.tobytes() + np.array(begins, np.int64).tobytes() + modes
    )
    Path(f"{prefix}.bin").write_bytes(b"".join(np.array(ids, dtype).tobytes() for ids in sequences))


@pytest.mark.parametrize("code", [1, 3, 4, 5, 8])
def test_documents_of_several_sequences_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(interop, "ROWS", 2)
    sequences = [[5, 6], [7], [], [8, 9, 1], [2, 1], [3]]
    write_megatron(tmp_path / "a", sequences, [0, 2, 4, 4, 6], code, modes=b"\0" * 6)
    expected = [[5, 6, 7], [8, 9, 1], [], [2, 1, 3]]
    assert all_of(read("megatron", tmp_path / "a.idx", "train", EOS).documents) == expected
    write_megatron(tmp_path / "b", sequences, [0, 2, 4], code)  # the last document was never ended
    assert all_of(read("megatron", tmp_path / "b", "train", EOS).documents) == [[5, 6, 7], [8, 9, 1], [2, 1, 3]]
    by_eos = all_of(read("megatron", tmp_path / "a", "train", EOS, by_eos=True).documents)
    assert by_eos == [[5, 6, 7, 8, 9, 1], [2, 1], [3]]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    def refused(match: str, form: str = "megatron", path: str = "a", **more: Any) -> None:
        with pytest.raises(UserError, match=match):
            all_of(read(form, tmp_path / path, "train", EOS, **more).documents)

    sequences = [[5, 6], [7], [8, 9, 1]]
    write_megatron(tmp_path / "a", sequences, [0, 1, 3], 8)
    whole, data = (tmp_path / "a.idx").read_bytes(), (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(data[:-2])
    refused("does not fit its .bin")
    (tmp_path / "a.bin").write_bytes(data + b"\0\0")
    refused("does not fit its .bin")
    (tmp_path / "a.bin").write_bytes(data)
    for at in range(34, len(whole)):  # every byte of lengths, places and documents matters
        changed = bytearray(whole)
        changed[at] ^= 4
        (tmp_path / "a.idx").write_bytes(changed)
        try:
            found = all_of(read("megatron", tmp_path / "a", "train", EOS).documents)
        except UserError:
            continue
        # What can be another data set as well: where documents begin. Even then no id is lost.
        assert at >= 34 + 12 * 3 and sum(found, []) == sum(sequences, [])
    (tmp_path / "a.idx").write_bytes(whole[:40])
    refused("cut short")
    (tmp_path / "a.idx").write_bytes(b"something else" * 10)
    refused("no index of Megatron's")
    np.array([20240520, 1, 9, *[0] * 253], np.int32).tofile(tmp_path / "b.bin")
    refused("header counts 9 ids", "llmc", "b.bin")
    refused("has the header of llm.c", "nanogpt", "b.bin")
    (tmp_path / "c.bin").write_bytes(b"123")
    refused("cut short, or not of uint16", "nanogpt", "c.bin")
    refused("does not begin as files of llm.c do", "llmc", "c.bin")
    refused("no .*d.bin", "nanogpt", "d.bin")


def test_a_stream_is_cut_after_eos_wherever_its_blocks_end() -> None:
    stream = np.array(sum(documents_of(4), []) + [7, 8])
    expected = [*documents_of(4), [7, 8]]
    for size in (1, 3, 64, 10_000):
        assert all_of(cut_after((stream[at : at + size] for at in range(0, len(stream), size)), EOS)) == expected
    assert all_of(cut_after(iter([stream[:5], stream[5:9]]), None)) == [stream[:9].tolist()]


def test_datasets_reads_what_is_written_and_we_read_what_it_writes(tmp_path: Path) -> None:
    import datasets

    documents = documents_of(5)
    write("datasets", shards_of(tmp_path, documents), tmp_path / "out", {})
    theirs = datasets.load_from_disk(str(tmp_path / "out"))
    assert theirs["input_ids"][:] == documents and theirs.column_names == ["input_ids"]
    rows = {"input_ids": documents, "attention_mask": [[1] * len(ids) for ids in documents]}
    data = datasets.Dataset.from_dict(rows)
    data.save_to_disk(str(tmp_path / "theirs"), num_shards=3)
    source = read("datasets", tmp_path / "theirs", "train", EOS)
    assert all_of(source.documents) == documents and "attention_mask" in source.notes[0]
    # Chosen and shuffled rows, several splits, every kind of list.
    kinds = {"int64": datasets.Value("int64"), "uint16": datasets.Value("uint16")}
    for name, value in kinds.items():
        cast = data.select_columns(["input_ids"]).cast(datasets.Features({"input_ids": datasets.List(value)}))
        chosen = cast.select([5, 3, 7])
        datasets.DatasetDict({"train": chosen, "test": cast}).save_to_disk(str(tmp_path / name))
        read_back = all_of(read("datasets", tmp_path / name, "train", EOS).documents)
        assert read_back == [documents[5], documents[3], documents[7]]
    blocks = datasets.Dataset.from_dict(
        {"input_ids": [[2, 1], [3, 4], [1, 5]]},
        features=datasets.Features({"input_ids": datasets.List(datasets.Value("int32"), length=2)}),
    )
    blocks.save_to_disk(str(tmp_path / "blocks"))
    assert all_of(read("datasets", tmp_path / "blocks", "train", EOS).documents) == [[2, 1], [3, 4], [1, 5]]
    assert all_of(read("datasets", tmp_path / "blocks", "train", EOS, by_eos=True).documents) == [
        [2, 1],
        [3, 4, 1],
        [5],
    ]
    for match, wrong in {"no column input_ids": {"text": ["a"]}, "not lists of whole": {"input_ids": ["a"]}}.items():
        datasets.Dataset.from_dict(wrong).save_to_disk(str(tmp_path / match))
        with pytest.raises(UserError, match=match):
            all_of(read("datasets", tmp_path / match, "train", EOS).documents)
    with pytest.raises(UserError, match="holds the splits train, test, no 'validation'"):
        read("datasets", tmp_path / "int64", "validation", EOS)


def test_what_is_scored_goes_along_as_labels(tmp_path: Path) -> None:
    import datasets

    documents = [[5, 6, 7, 1], [8, 1], [9, 9, 1]]
    spans = {
        "scored": [
            [np.array([[2, 4]], np.int32)],
            [np.array([[0, 1], [1, 2]], np.int32)],
            [np.empty((0, 2), np.int32)],
        ],
        "scored_offsets": [[np.array([0, 1])], [np.array([0, 2])], [np.array([0, 0])]],
    }
    shards = shards_of(tmp_path, documents, tensors=spans, kind="prompt_response")
    write("datasets", shards, tmp_path / "out", {})
    labels = datasets.load_from_disk(str(tmp_path / "out"))["labels"][:]
    assert labels == [[-100, -100, 7, 1], [8, 1], [-100] * 3]
    targets = {
        "target_tokens": [[np.array([4, 1], np.uint16)], [np.array([1], np.uint16)], [np.array([3, 3, 1], np.uint16)]],
        "target_offsets": [[np.array([0, 2])], [np.array([0, 1])], [np.array([0, 3])]],
    }
    pairs = shards_of(tmp_path / "pairs", documents, tensors=targets, kind="pairs")
    write("datasets", pairs, tmp_path / "pairs" / "out", {})
    assert datasets.load_from_disk(str(tmp_path / "pairs" / "out"))["labels"][:] == [[4, 1], [1], [3, 3, 1]]
    with pytest.raises(UserError, match="pairs, which only the format datasets"):
        write("megatron", pairs, tmp_path / "pairs" / "other", {})


# ---- into shards that training accepts ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and token shards of 200 documents, in parts of a few thousand tokens."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = small_tokenizer(folder / "tokenizer")
    path = write_documents(folder / "data.jsonl", 200)
    tokenise(config_for(folder, path, tokenize={"shard_tokens": 1500}), tokenizer)
    return folder


def config_file(folder: Path, made: Path, **tokenize: object) -> Path:
    """A config that tokenises into `folder`, with the tokenizer that is in `made`."""
    config = config_for(made, made / "data.jsonl", tokenize={"path": str(folder / "tokens"), **tokenize})
    (folder / "config.yaml").write_text(to_yaml(config.model_dump()))
    return folder / "config.yaml"


@pytest.mark.parametrize("form", interop.FORMATS)
def test_shards_come_back_as_they_went(tmp_path: Path, made: Path, form: str, capsys: pytest.CaptureFixture) -> None:
    assert door("export_tokens", made / "tokens" / "train", form, tmp_path / "out") == 0
    path = tmp_path / {"nanogpt": "out.bin", "llmc": "out_*.bin"}.get(form, "out")
    config = config_file(tmp_path, made, shard_tokens=1500)
    assert door("import_tokens", config, form, path) == 0, capsys.readouterr()
    theirs, ours = ShardSet.open(made / "tokens", "train"), ShardSet.open(tmp_path / "tokens", "train")
    assert len(ours.shards) == len(theirs.shards) > 2
    for a, b in zip(theirs.shards, ours.shards, strict=True):
        assert a.tokens.tobytes() == b.tokens.tobytes() and a.offsets.tobytes() == b.offsets.tobytes()
    same = ("kind", "dtype", "vocab_size", "tokenizer", "documents", "tokens", "scored_tokens", "largest_id")
    assert {name: ours.manifest[name] for name in same} == {name: theirs.manifest[name] for name in same}
    text = ("bytes", "words", "lines")  # the tokenizer loses nothing, so decoded text is the text
    assert {name: ours.manifest[name] for name in text} == {name: theirs.manifest[name] for name in text}
    tokenizer = Tokenizer.load(made / "tokenizer")
    data = LanguageModelData(load_config(config, ["data.max_seq_len=16"]), tokenizer, ModelFacts())
    assert data.n_windows > 10 and data.text_counts("train").why_not is None
    assert door("import_tokens", config, form, path) == 2 and "is there already" in capsys.readouterr().err
    assert door("import_tokens", config, form, path, "--restart", "--no-text") == 0
    assert ShardSet.open(tmp_path / "tokens", "train").manifest["bytes"] == 0


def test_what_is_not_the_tokenizers_is_refused(tmp_path: Path, made: Path, capsys: pytest.CaptureFixture) -> None:
    config = config_file(tmp_path, made)
    np.array([5, 6, 7, EOS, 8, 60_000], np.uint16).tofile(tmp_path / "far.bin")

    def refused(*arguments: object) -> str:
        assert door("import_tokens", config, *arguments) == 2
        assert not (tmp_path / "tokens" / "train").exists()
        return capsys.readouterr().err

    assert "document 1 (counted from 0) has the id 60,000, but the tokenizer only 3" in refused(
        "nanogpt", tmp_path / "far.bin"
    )
    np.array([5, 6, 7, 8], np.uint16).tofile(tmp_path / "endless.bin")
    assert "no document ends with the tokenizer's EOS" in refused("nanogpt", tmp_path / "endless.bin")
    write("nanogpt", shards_of(tmp_path / "other", documents_of(1)), tmp_path / "other.bin", {"tokenizer": "f" * 64})
    assert "exported from shards of another tokenizer (fingerprint ffffffffffff" in refused(
        "nanogpt", tmp_path / "other.bin"
    )
    assert "say nothing of what is scored" in refused("nanogpt", tmp_path / "far.bin", "dataset.kind=prompt_response")
    assert "--split dev: the config has train" in refused("nanogpt", tmp_path / "far.bin", "--split", "dev")


def test_a_strange_end_is_told_and_kept(tmp_path: Path, made: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer = Tokenizer.load(made / "tokenizer")
    ids = [*tokenizer.encode("the cat sat"), EOS, *tokenizer.encode("on a m"), 250, 251]
    np.array(ids, np.uint16).tofile(tmp_path / "cut.bin")
    assert door("import_tokens", config_file(tmp_path, made), "nanogpt", tmp_path / "cut.bin") == 0
    said = capsys.readouterr()
    assert "1 of 2 documents do not end with EOS" in said.err and "begins" in said.out
    assert "1 of the first 2 documents give other ids" in said.err
    assert ShardSet.open(tmp_path / "tokens", "train").shards[0].tokens.tolist() == ids


def test_memory_is_that_of_a_block(tmp_path: Path, made: Path) -> None:
    """60 MB of ids, and beside them no more than a few pieces."""
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 250, 30_000_000, dtype=np.uint16)
    ids[::500] = EOS
    ids.tofile(tmp_path / "large.bin")
    config = load_config(config_file(tmp_path, made))
    tokenizer = Tokenizer.load(made / "tokenizer")
    folder = tmp_path / "tokens" / "train"
    source = read("nanogpt", tmp_path / "large.bin", "train", EOS)
    tracemalloc.start()
    manifest = import_tokens(config, tokenizer, "train", folder, "nanogpt", source, with_text=False)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest["tokens"] == len(ids) and largest < 40e6
