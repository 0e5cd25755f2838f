"""Lineage: whatever bit flips, whatever is missing or foreign is named; the chain holds from raw text to score."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from corpus.packing import Packing
from corpus.parts import finished_part
from corpus.shards import ShardSet
from corpus.tokenising import tokenise
from corpus.verifying import verify
from corpus.window_index import WindowIndex
from tests.small_data import config_for, small_tokenizer, write_documents
from utils.messages import UserError


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split in two parts of several shards, with indices of windows."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = small_tokenizer(folder / "tokenizer")
    path = write_documents(folder / "data.jsonl", 30_000, longest=12)
    only_train = {"validation_path": None, "test_path": None}
    settings = {"shard_tokens": 120_000, "parts": 2}
    tokenise(config_for(folder, path, dataset=only_train, tokenize=settings), tokenizer)
    opened = ShardSet.open(folder / "tokens", "train")
    for packing in ("partial", "best_fit"):
        WindowIndex(opened, Packing(32, packing=packing))
    names = {path.name.partition(".")[2][:7] for path in (folder / "tokens" / "train").iterdir()}
    assert names == {"json", "safeten", "windows"} and len(opened.shards) >= 4
    return folder / "tokens" / "train"


def test_every_flipped_bit_is_found(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(shards, folder)
    assert verify(folder) == []
    chance = random.Random(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        # Of small files many, of large ones some in the header too.
        places = [chance.randrange(min(len(whole), 500)) for _ in range(12)] + [
            chance.randrange(len(whole)) for _ in range(6)
        ]
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            said = verify(folder)
            assert said and path.name in said[0], f"byte {place} of {path.name}: {said}"
        path.write_bytes(whole)
    assert verify(folder) == []


def test_what_is_missing_or_foreign_is_named(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(shards, folder)
    (folder / "part-00001-shard-00000.safetensors").unlink()
    shutil.copy(folder / "part-00000-shard-00000.safetensors", folder / "part-00007-shard-00000.safetensors")
    shutil.copy(folder / "part-00000-shard-00001.safetensors", folder / "part-00000-shard-00000.safetensors")
    (folder / "part-00000.json").unlink()
    (folder / "settings.json").unlink()
    (folder / "notes.txt").write_text("mine")
    index = next(folder.glob("part-00001-shard-00000.windows-*"))
    shutil.copy(index, folder / "part-00009-shard-00000.windows-0123456789ab.safetensors")
    said = {Path(line.partition(": ")[0]).name: line.partition(": ")[2] for line in verify(folder)}
    assert said == {
        "part-00000.json": "missing",
        "settings.json": "missing",
        "part-00000-shard-00000.safetensors": "wrong, not the bytes of its checksum",
        "part-00001-shard-00000.safetensors": "missing",
        "notes.txt": "foreign, not in the manifest",
        "part-00007-shard-00000.safetensors": "foreign, not in the manifest",
        "part-00009-shard-00000.windows-0123456789ab.safetensors": "foreign, not in the manifest",
    }
    (folder / "manifest.json").unlink()  # the parts that are left still say what there should be
    lines = verify(folder)
    assert f"{folder}/manifest.json: missing" in lines
    assert f"{folder}/part-00001-shard-00000.safetensors: missing" in lines


def test_a_damaged_index_is_made_again(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "train"
    shutil.copytree(shards, folder)
    packing = Packing(32, packing="best_fit")
    expected = WindowIndex(ShardSet.open(tmp_path, "train"), packing).gather(np.arange(50))
    path, *_ = sorted(folder.glob("part-00000-shard-00000.windows-*"))
    for place in (5, 60, -3):
        changed = bytearray(path.read_bytes())
        changed[place] ^= 16
        path.write_bytes(changed)
        for again in (Packing(32, packing="partial"), packing):
            found = WindowIndex(ShardSet.open(tmp_path, "train"), again).gather(np.arange(50))
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert f"{path.name} is damaged; it is made again" in capsys.readouterr().err
        assert verify(folder) == []
    path.write_bytes(path.read_bytes()[:100])
    for again in (Packing(32, packing="partial"), packing):
        WindowIndex(ShardSet.open(tmp_path, "train"), again)
    assert verify(folder) == []


def test_a_damaged_manifest_or_part_is_refused_when_it_is_read(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(shards, folder)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"vocab_size": 300', '"vocab_size": 301'))
    with pytest.raises(UserError, match="manifest.json is damaged"):
        ShardSet.open(tmp_path, "train")
    (folder / "part-00001.json").write_text((folder / "part-00001.json").read_text().replace("1", "2", 1))
    with pytest.raises(UserError, match="part-00001.json is damaged: .* make part 1 again"):
        finished_part(folder, 1, {})
