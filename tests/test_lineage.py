"""Lineage: whatever bit flips, whatever is missing or foreign is named; the chain holds from raw text to score."""

import gzip
import os
import random
import re
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

import train
from configs.places import run_dir, split_dir
from configs.schema import Config
from corpus import inputs
from corpus.lineage import chain, check_run, input_sizes, of_training, write_run
from corpus.packing import Packing
from corpus.parts import finished_part
from corpus.shards import ShardSet
from corpus.sources import source_of
from corpus.tokenising import tokenise
from corpus.verifying import verify
from corpus.window_index import WindowIndex
from dataset import LanguageModelData
from evaluation.opening import built, find_model, open_model
from evaluation.scoring import score
from model import LanguageModelTraining
from models.interface import ModelFacts
from tests.doors import door
from tests.small_data import config_for, small_tokenizer, write_documents
from tests.small_runs import small_run, write_checkpoint
from tokenizer.tokenizer import Tokenizer
from tokenizer.trained import check, write
from utils.files import read_json, write_json
from utils.hashing import sha256_file
from utils.messages import UserError


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split in two parts of several shards, with indices of windows."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = small_tokenizer(folder / "tokenizer")
    path = write_documents(folder / "data.jsonl", 30_000, longest=12)
    only_train = {"validation_path": None, "test_path": None}
    settings = {"shard_tokens": 120_000, "parts": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "UNIT_BYTES", 1 << 20)  # two of them: each part has some
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
    last_offset = path.read_bytes().index(b"]}}") - 1  # an odd one lies beyond the end of the file
    for place, bit in ((5, 16), (60, 16), (last_offset, 1), (-3, 16)):
        changed = bytearray(path.read_bytes())
        changed[place] ^= bit
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


# ---- the chain ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Config:
    """A run with scores, on shards of a text."""
    config = small_run(tmp_path, data={"max_seq_len": 16}, trainer={"precision": "32-true", "accelerator": "cpu"})
    tokenizer = Tokenizer.configured(config)
    write_run(run_dir(config), of_training(config, tokenizer.fingerprint))
    score(config, LanguageModelData, LanguageModelTraining)
    return config


def marks(config: Config, deep: bool = False) -> dict[str, tuple[str, str]]:
    """-> mark and what is said of each link, by what it is; checkpoints with their kind"""
    folders = {split: split_dir(config, split) for split in ("train", "validation", "test")}
    links = chain(folders, config, Tokenizer.configured(config), run_dir(config), deep)
    return {
        f"{link.what} {Path(link.where).name[:4]}" if link.what == "checkpoint" else link.what: (link.mark, link.said)
        for link in links
    }


ALL = ["raw text", "tokenizer", "shards, train", "shards, validation", "shards, test", "run", "checkpoint step",
       "checkpoint best", "inference"]  # fmt: skip


@pytest.mark.parametrize("deep", [False, True])
def test_what_was_made_of_what_is_there_holds(run: Config, deep: bool) -> None:
    found = marks(run, deep)
    assert list(found) == ALL and {mark for mark, _ in found.values()} == {"✓"}, found
    assert re.fullmatch(r"loss \d\.\d{4} on these shards of test, of best-00000007", found["inference"][1])


def broken(run: Config, deep: bool = False) -> dict[str, str]:
    """The links that do not hold, and why."""
    return {what: said for what, (mark, said) in marks(run, deep).items() if mark == "✗"}


def test_text_that_has_changed_breaks_the_links_of_its_shards(run: Config) -> None:
    text = Path(run.dataset.train_path)
    content = text.read_bytes()
    text.write_bytes(content.replace(b"cat", b"cow"))  # as long as before
    said = broken(run)
    assert list(said) == ["shards, train", "shards, validation", "shards, test"]
    assert "the files hold something else" in said["shards, train"]
    text.write_bytes(content)
    assert not broken(run)
    text.write_bytes(content + b'{"text": "more"}\n')
    assert "the files are of other sizes" in broken(run)["shards, train"]
    text.unlink()  # it need not be there any more
    assert not broken(run) and marks(run)["shards, train"][0] == "?"


def test_other_shards_break_the_links_of_run_and_scores(run: Config) -> None:
    text = Path(run.dataset.train_path)
    text.write_bytes(text.read_bytes().replace(b"cat", b"cow"))
    tokenise(run, Tokenizer.configured(run), restart=True)
    said = broken(run)
    assert said["run"] == "trained on other shards of train; trained on other shards of validation"
    assert said["inference"].startswith("scored on other shards of test (") and list(said) == ["run", "inference"]
    with pytest.raises(UserError, match="no longer the same: the shards of train, the shards of validation"):
        check_run(run_dir(run), of_training(run, Tokenizer.configured(run).fingerprint))


def test_another_tokenizer_breaks_every_link_after_it(run: Config, tmp_path: Path) -> None:
    then = of_training(run, Tokenizer.configured(run).fingerprint)
    small_tokenizer(tmp_path / "tokenizer", leave_out=("mask",))
    assert {"shards, train", "shards, validation", "shards, test", "run"} == set(broken(run))
    with pytest.raises(UserError, match="no longer the same: the tokenizer"):
        check_run(run_dir(run), of_training(run, Tokenizer.configured(run).fingerprint))
    check_run(run_dir(run), then)


def test_damaged_checkpoints_and_shards_are_found(run: Config) -> None:
    weights = next(run_dir(run).glob("checkpoints/best-*/model.safetensors"))
    shard = next((split_dir(run, "test")).glob("*.safetensors"))
    for path in (weights, shard):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not broken(run)  # of the same size: only who reads them again can tell
    said = broken(run, deep=True)
    assert (
        said["checkpoint best"] == "damaged: model.safetensors"
        and "not the bytes of its checksum" in said["shards, test"]
    )
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "checkpoint best" in broken(run)
    write_checkpoint(run, built(run.model_copy(update={"seed": 5}), Tokenizer.configured(run)))
    assert re.search(r"of other weights \(\w{12}\) than best-00000007 has now", broken(run)["inference"])


def test_show_prints_the_chain_and_says_by_its_exit_code_whether_it_holds(
    run: Config, capsys: pytest.CaptureFixture
) -> None:
    assert door("show", run_dir(run)) == 0
    assert "✓ inference" in capsys.readouterr().out
    for split in ("train", "validation"):
        shutil.rmtree(split_dir(run, split))
    assert door("show", run_dir(run), "--split", "test") == 0
    assert "the shards of train, validation are not at hand" in capsys.readouterr().out
    text = Path(run.dataset.train_path)
    text.write_bytes(text.read_bytes().replace(b"cat", b"cow"))
    assert door("show", run_dir(run), "--split", "test") == 1
    assert "✗ shards, test" in capsys.readouterr().out


def test_without_a_config_what_lies_beside_the_shards_is_compared(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "tokens" / "train")
    (tmp_path / "raw").mkdir()
    text = shards.parent.parent / "data.jsonl"
    shutil.copy(text, tmp_path / "raw" / "data.jsonl")

    def found(n_bytes: int, deep: bool = False) -> list[tuple[str, str]]:
        entry = {"name": "data.jsonl", "bytes": n_bytes, "sha256": sha256_file(text)}
        write_json(tmp_path / "raw" / "manifest.json", {"splits": {"train": {"files": [entry]}}})
        tokenizer = Tokenizer.load(shards.parent.parent / "tokenizer")
        links = chain({"train": tmp_path / "tokens" / "train"}, None, tokenizer, None, deep)
        return [(link.what, link.mark) for link in links]

    right = text.stat().st_size
    assert found(right, deep=True) == [("raw text", "✓"), ("tokenizer", "✓"), ("shards, train", "✓")]
    assert found(right + 1) == [("raw text", "✗"), ("tokenizer", "✓"), ("shards, train", "✗")]


# ---- what stages refuse ---------------------------------------------------------------------------------------------


def test_a_run_is_not_opened_with_another_tokenizer(run: Config, tmp_path: Path) -> None:
    trained = Tokenizer.configured(run)
    place = find_model(run, "best")
    state = read_json(place.path / "state.json")
    write_json(place.path / "state.json", {**state, "facts": {"tokenizer": trained.fingerprint}})
    assert open_model(place, run).tokenizer.fingerprint == trained.fingerprint
    small_tokenizer(tmp_path / "tokenizer", leave_out=("mask",))
    with pytest.raises(UserError, match="was trained with another tokenizer"):
        open_model(place, run)
    trained.save(run_dir(run) / "model")  # an exported model has it still
    assert open_model(place, run).tokenizer.fingerprint == trained.fingerprint


def test_training_refuses_shards_of_text_that_has_grown(run: Config) -> None:
    assert {input_sizes(run, split) for split in ("train", "test")} == {source_of(run, "train").sizes()}
    packed = Path(run.dataset.train_path).with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(b'{"text": "a"}\n\n{"text": "b"}\n'))
    of_packed = run.model_copy(update={"dataset": run.dataset.model_copy(update={"train_path": str(packed)})})
    assert input_sizes(of_packed, "train") == source_of(of_packed, "train").sizes()
    default = run.model_copy(update={"tokenize": run.tokenize.model_copy(update={"path": None})})
    shutil.copytree(run.tokenize.path, split_dir(default, "train").parent)
    data = LanguageModelData(default, Tokenizer.configured(run), ModelFacts())
    assert data.n_windows
    text = Path(run.dataset.train_path)
    text.write_bytes(text.read_bytes() + b'{"text": "more"}\n')
    with pytest.raises(UserError, match="the files that it was read from have other sizes now"):
        LanguageModelData(default, Tokenizer.configured(run), ModelFacts()).windows("train")
    text.unlink()
    assert len(LanguageModelData(default, Tokenizer.configured(run), ModelFacts()).windows("train"))


def test_tokenising_refuses_a_tokenizer_of_other_text(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_documents(tmp_path / "data.jsonl", 200)
    config = config_for(tmp_path, path)
    settings = config.tokenizer.model_copy(update={"path": None, "vocab_size": 280})
    default = config.tokenize.model_copy(update={"path": None})
    config = config.model_copy(update={"tokenizer": settings, "tokenize": default})
    write(config, "huggingface", Tokenizer.load(small_tokenizer(tmp_path / "made").where).files, [])
    check(config)
    os.utime(path)  # touched, but the same
    check(config)
    larger = config.model_copy(update={"tokenizer": settings.model_copy(update={"vocab_size": 290})})
    with pytest.raises(UserError, match="vocab_size: 280 there, 290 in the config"):
        check(larger)
    path.write_bytes(path.read_bytes().replace(b"cat", b"cow"))
    with pytest.raises(UserError, match="made from something else: input: .* or set tokenizer.path="):
        check(config)
    elsewhere = default.model_copy(update={"path": str(tmp_path / "elsewhere")})
    check(config.model_copy(update={"tokenize": elsewhere}))
    assert "it is used all the same" in capsys.readouterr().err
    path.unlink()
    check(config)


def test_a_run_goes_on_with_the_data_that_it_began_with(run: Config) -> None:
    trainer = run.trainer.model_copy(update={"max_steps": 1, "global_batch_size": 2, "validation_windows": 2})
    config = run.model_copy(update={"trainer": trainer, "name": "other"})
    flags = Namespace(config="other.yaml", overrides=[], debug=False, restart=False, evaluate=False)
    assert train.main(config, flags) == 0
    found = marks(config, deep=True)
    assert found["run"] == ("✓", "trained on these shards: train, validation")
    assert found["model"] == ("✓", "of best-00000001")
    weights = run_dir(config) / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert marks(config, deep=True)["model"] == ("✗", "missing or changed: model.safetensors")
    (run_dir(config) / "finished.json").unlink()
    assert train.main(config, flags) == 0
    (run_dir(config) / "finished.json").unlink()
    text = Path(config.dataset.train_path)
    text.write_bytes(text.read_bytes().replace(b"cat", b"cow"))
    tokenise(config, Tokenizer.configured(config), restart=True)
    with pytest.raises(UserError, match="no longer the same: the shards of train, the shards of validation"):
        train.main(config, flags)
    assert train.main(config, Namespace(**{**vars(flags), "restart": True})) == 0
