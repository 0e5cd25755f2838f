"""Parts made one by one, anywhere and in any order, are the bytes of one run; caps, changes and what is named."""

import gzip
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configs.schema import Config
from corpus import inputs, reading, tasks, tokenising
from corpus.documents import read_documents
from corpus.report import report, report_joined, report_verified
from corpus.shards import ShardSet
from corpus.tokenising import tokenise
from corpus.verifying import verify
from tests.small_data import config_for, small_tokenizer, write_documents
from tests.test_tokenising import contents
from tokenizer.tokenizer import Tokenizer
from utils.messages import Meter, UserError, size


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "UNIT_BYTES", 5_000)
    monkeypatch.setattr(tasks, "TASK_BYTES", 20_000)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return small_tokenizer(tmp_path / "tokenizer")


def cut_config(tmp_path: Path, out: str, **tokenize: object) -> Config:
    """A config whose three splits are cut from one file."""
    dataset = {
        "path": str(tmp_path / "a.jsonl"), "train_path": None, "validation_path": None, "test_path": None,
        "fractions": {"train": 0.9, "validation": 0.05, "test": 0.05},
    }  # fmt: skip
    settings = {"path": str(tmp_path / out), "shard_tokens": 7_000, "bad_documents": "skip", **tokenize}
    return config_for(tmp_path, tmp_path / "a.jsonl", dataset=dataset, tokenize=settings)


def spoil(path: Path) -> None:
    """Puts bad and empty documents among the good."""
    lines = path.read_text().splitlines()
    for i in range(0, len(lines), 37):
        lines[i] = '{"text": ""}' if i % 2 else "{bad"
    path.write_text("\n".join(lines) + "\n")


def test_parts_made_one_by_one_are_the_bytes_of_one_run(tmp_path: Path, tokenizer: Tokenizer) -> None:
    spoil(write_documents(tmp_path / "a.jsonl", 2000))
    tokenise(cut_config(tmp_path, "one", parts=4), tokenizer)
    for part in (2, 0, 3):
        made = tokenise(cut_config(tmp_path, "array", parts=4, part=part), tokenizer)
        assert all(one.manifest is None and part not in one.missing for one in made)
    assert not list((tmp_path / "array").rglob("manifest.json"))
    with pytest.raises(UserError, match=r"part 1 of .*train is missing; .*tokenize.parts=4 tokenize.part=1"):
        report_joined(cut_config(tmp_path, "array", parts=4), tokenizer)
    made = tokenise(cut_config(tmp_path, "array", parts=4, part=1), tokenizer)
    assert all(one.manifest for one in made)  # the last one joins
    assert contents(tmp_path / "array") == contents(tmp_path / "one")
    assert {split: verify(tmp_path / "array" / split) for split in ("train", "validation", "test")} == {
        "train": [], "validation": [], "test": [],
    }  # fmt: skip
    manifest = made[0].manifest
    assert manifest["skipped"]["not JSON"] > 10 and manifest["empty"] > 10
    # Whatever the parts, the documents are in the order of the input.
    tokenise(cut_config(tmp_path, "whole"), tokenizer)
    for split in ("train", "validation", "test"):
        shards = [ShardSet.open(tmp_path / out, split).shards for out in ("one", "whole")]
        tokens = [[token for shard in each for token in shard.tokens.tolist()] for each in shards]
        assert tokens[0] == tokens[1]
        texts = [document.fields["text"] for document in read_documents(cut_config(tmp_path, "one"), split)]
        assert tokenizer.decode(tokens[0], skip_special=False) == "".join(f"{text}<eos>" for text in texts)


def test_a_part_that_is_not_whole_is_named_and_made_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_documents(tmp_path / "a.jsonl", 1500)
    tokenise(cut_config(tmp_path, "one", parts=3), tokenizer)
    for part in (0, 1, 2):
        tokenise(cut_config(tmp_path, "array", parts=3, part=part), tokenizer)
    folder = tmp_path / "array" / "train"
    for split in ("train", "validation", "test"):
        (tmp_path / "array" / split / "manifest.json").unlink()
    shard = folder / "part-00001-shard-00000.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(UserError, match=r"part 1 of .*train is not whole: part-00001-shard-00000.*checksum.*part=1"):
        report_joined(cut_config(tmp_path, "array", parts=3), tokenizer)
    shard.unlink()
    with pytest.raises(UserError, match=r"part 1 of .*is not whole: part-00001-shard-00000.safetensors is missing"):
        tokenise(cut_config(tmp_path, "array", parts=3), tokenizer)
    (folder / "part-00001.json").unlink()
    tokenise(cut_config(tmp_path, "array", parts=3, part=1), tokenizer)
    report_joined(cut_config(tmp_path, "array", parts=3), tokenizer)
    assert contents(tmp_path / "array") == contents(tmp_path / "one")
    shard.write_bytes(damaged)  # and after they were joined it is still checked
    with pytest.raises(UserError, match=r"part-00001-shard-00000.safetensors: wrong, not the bytes of its checksum"):
        report_joined(cut_config(tmp_path, "array", parts=3), tokenizer)


def test_what_is_told_of_parts_is_true(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    write_documents(tmp_path / "a.jsonl", 300)
    made = tokenise(cut_config(tmp_path, "out", parts=2, part=0), tokenizer)
    with pytest.raises(UserError, match=r"no manifest yet: the same command without --verify goes on"):
        report_verified(cut_config(tmp_path, "out", parts=2))
    made = tokenise(cut_config(tmp_path, "whole"), tokenizer)
    capsys.readouterr()
    report(made, "mine.yaml", "tokenizers")
    # Three splits are read from one file, once.
    assert re.search(rf"speed +{size(made[0].n_bytes)} in", capsys.readouterr().out)


def test_a_file_that_cannot_be_cut_moves_the_meter(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write_documents(tmp_path / "a.jsonl", 3000).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain))
    monkeypatch.setattr(reading, "STREAM_BYTES", 10_000)
    seen = []

    class Seen(Meter):
        def update(self, text: str, done: float | None = None) -> None:
            seen.append(self.done)

    @contextmanager
    def watched(description: str, total: float | None, unit: str) -> Iterator[Meter]:
        yield Seen(description, total, unit, 30)
        assert seen[-1] == pytest.approx(total)

    monkeypatch.setattr(tokenising, "progress", watched)
    tokenise(
        config_for(tmp_path, tmp_path / "a.jsonl.gz", dataset={"validation_path": None, "test_path": None}), tokenizer
    )
    assert len(set(seen)) > 5 and seen == sorted(seen)


def test_parts_and_caps_that_cannot_be(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_documents(tmp_path / "a.jsonl", 10)
    with pytest.raises(UserError, match="tokenize.part=4, but there are tokenize.parts=4, counted from 0"):
        tokenise(cut_config(tmp_path, "out", parts=4, part=4), tokenizer)
    with pytest.raises(UserError, match="--restart with tokenize.part=1 would move aside what the other tasks"):
        tokenise(cut_config(tmp_path, "out", parts=2, part=1), tokenizer, restart=True)
    with pytest.raises(UserError, match="tokenize.parts=2 with tokenize.max_tokens"):
        tokenise(cut_config(tmp_path, "out", parts=2, max_tokens=10), tokenizer)


@pytest.mark.parametrize("cap", ["max_documents", "max_bytes", "max_tokens"])
def test_caps_are_where_they_were_after_a_stop(tmp_path: Path, tokenizer: Tokenizer, cap: str) -> None:
    path = write_documents(tmp_path / "a.jsonl", 1000)
    most = {"max_documents": 611, "max_bytes": 30_011, "max_tokens": 20_011}[cap]

    def config(out: str) -> Config:
        tokenize = {"path": str(tmp_path / out), "shard_tokens": 3_000}
        (tokenize if cap == "max_tokens" else (dataset := {}))[cap] = most
        own = {"validation_path": None, "test_path": None, **({} if cap == "max_tokens" else dataset)}
        return config_for(tmp_path, path, dataset=own, tokenize=tokenize)

    (made,) = tokenise(config("whole"), tokenizer)
    kept = [json.loads(line)["text"] for line in path.read_text().splitlines()][: made.manifest["documents"] + 1]
    counts = {
        "max_documents": [1 for _ in kept],
        "max_bytes": [len(text.encode()) for text in kept],
        "max_tokens": [len(tokenizer.encode(text)) + 1 for text in kept],
    }[cap]
    assert sum(counts[:-1]) <= most < sum(counts)  # as many as fit, and not one more
    if cap != "max_tokens":
        assert len(list(read_documents(config("whole"), "train"))) == made.manifest["documents"]
    # What a kill leaves: some shards, and nothing that says the part is finished.
    tokenise(config("again"), tokenizer)
    folder = tmp_path / "again" / "train"
    for path_of in (folder / "manifest.json", folder / "part-00000.json", *sorted(folder.glob("*.safetensors"))[3:]):
        path_of.unlink()
    tokenise(config("again"), tokenizer)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_bad_document_beyond_a_cap_is_not_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_documents(tmp_path / "a.jsonl", 30)
    path.write_text(path.read_text() + "{bad\n")
    own = {"validation_path": None, "test_path": None}
    (made,) = tokenise(config_for(tmp_path, path, dataset={**own, "max_documents": 20}), tokenizer)
    assert made.manifest["documents"] == 20
    with pytest.raises(UserError, match=r"a.jsonl:31: not JSON .*tokenize.bad_documents=skip"):
        tokenise(config_for(tmp_path, path, dataset=own, tokenize={"path": str(tmp_path / "all")}), tokenizer)


@pytest.mark.parametrize("cap", [None, 50])
def test_a_unit_may_hold_next_to_nothing(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, cap: int | None
) -> None:
    """Many units in a task, as many small files are; with a cap train is full thousands of them before the others."""
    monkeypatch.setattr(inputs, "UNIT_BYTES", 16)
    monkeypatch.setattr(tasks, "TASK_BYTES", 200_000 if cap is None else 5_000)
    write_documents(tmp_path / "a.jsonl", 2000)
    configs = {out: cut_config(tmp_path, out) for out in ("whole", "again")}
    configs = {
        out: config.model_copy(update={"dataset": config.dataset.model_copy(update={"max_documents": cap})})
        for out, config in configs.items()
    }
    for config in configs.values():
        tokenise(config, tokenizer)
    folder = tmp_path / "again" / "train"
    for path in (folder / "manifest.json", folder / "part-00000.json", *sorted(folder.glob("*.safetensors"))[1:]):
        path.unlink()
    tokenise(configs["again"], tokenizer)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_part_without_documents_goes_on_too(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_documents(tmp_path / "a.jsonl", 3)
    for out in ("whole", "again"):
        tokenise(config_for(tmp_path, path, tokenize={"path": str(tmp_path / out), "parts": 3}), tokenizer)
    for name in ("manifest.json", "part-00002.json"):  # what a kill leaves: its empty shard
        (tmp_path / "again" / "train" / name).unlink()
    os.utime(path, (time.time() + 5,) * 2)  # so that what was read is hashed again
    tokenise(config_for(tmp_path, path, tokenize={"path": str(tmp_path / "again"), "parts": 3}), tokenizer)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_an_input_that_changes_between_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_documents(tmp_path / "a.jsonl", 1000)
    tokenise(cut_config(tmp_path, "out"), tokenizer)
    before = contents(tmp_path / "out")
    text = path.read_bytes()
    os.utime(path)  # newer, but the same: read again to be sure
    assert [made.seconds for made in tokenise(cut_config(tmp_path, "out"), tokenizer)] == [0, 0, 0]
    path.write_bytes(text.replace(b"cat", b"cow"))
    with pytest.raises(UserError, match="made from another input"):
        tokenise(cut_config(tmp_path, "out"), tokenizer)
    for split in ("train", "validation", "test"):
        folder = tmp_path / "out" / split
        for name in (
            "manifest.json",
            "part-00000.json",
            *(["part-00000-shard-00002.safetensors"] * (split == "train")),
        ):
            (folder / name).unlink()
    time.sleep(0.01)
    with pytest.raises(UserError, match="has changed since it was begun"):
        tokenise(cut_config(tmp_path, "out"), tokenizer)
    path.write_bytes(text)
    tokenise(cut_config(tmp_path, "out"), tokenizer)
    assert contents(tmp_path / "out") == before


def test_an_input_that_changes_between_parts_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_documents(tmp_path / "a.jsonl", 1000)
    tokenise(cut_config(tmp_path, "out", parts=2, part=0), tokenizer)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"cat", b"cow"))
    with pytest.raises(UserError, match="part 0 of .*train was made from another input than there is now"):
        tokenise(cut_config(tmp_path, "out", parts=2, part=1), tokenizer)
    assert not list((tmp_path / "out").rglob("manifest.json"))
    with pytest.raises(UserError, match="part 0 of .*train was made from another input than there is now"):
        report_joined(cut_config(tmp_path, "out", parts=2), tokenizer)
