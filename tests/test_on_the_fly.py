"""Training without shards: every document once in each epoch, the same samples after any kill, and what is refused."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch

from configs.loading import load_config
from configs.schema import Config
from corpus import held
from corpus.documents import Reader, read_documents
from corpus.encoding import Encoder, layout_of
from corpus.packing import Packing
from corpus.shards import ShardSet
from corpus.sources import source_of
from corpus.streaming import Position, Recipe, Stream, goes_on
from corpus.tokenising import tokenise
from corpus.window_index import WindowIndex
from dataset import LanguageModelData
from models.interface import ModelFacts
from tests.small_data import config_for, small_tokenizer, write_documents
from tokenizer.tokenizer import Tokenizer
from training import checkpoints
from training.loader import Loader
from utils.files import write_json
from utils.messages import UserError
from utils.yaml_writing import to_yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("one") / "tokenizer")


def recipe(config: Config, tokenizer: Tokenizer, packing: Packing, buffer: int = 1000, shuffle: bool = True) -> Recipe:
    dataset = config.dataset
    return Recipe(
        source_of(config, "train"), "train", Reader(config), Encoder(tokenizer, layout_of(config)), packing, 5, shuffle,
        buffer, config.tokenize.bad_documents, dataset.max_documents, dataset.max_bytes,
    )  # fmt: skip


def many_files(folder: Path, files: int, documents: int) -> Path:
    folder.mkdir()
    for number in range(files):
        write_documents(folder / f"{number:03}.jsonl", documents, seed=number)
    return folder


@pytest.mark.parametrize(
    ("files", "streams", "dataset", "by_units"),
    [
        (1, 1, {}, False),
        (1, 3, {}, False),
        (5, 4, {"max_documents": 61}, False),
        (24, 3, {}, True),
        (24, 3, {"max_bytes": 3000}, False),
        (30, 2, {"train_path": None, "validation_path": None, "test_path": None}, True),  # cut by fractions
    ],
)
def test_every_document_is_in_one_stream(
    tmp_path: Path, tokenizer: Tokenizer, files: int, streams: int, dataset: dict, by_units: bool
) -> None:
    path = many_files(tmp_path / "files", files, 20)
    if "train_path" in dataset:
        dataset = dataset | {"path": str(path), "fractions": {"train": 0.8, "validation": 0.1, "test": 0.1}}
    config = config_for(tmp_path, path, dataset=dataset)
    wanted = Counter((one.unit, one.row) for one in read_documents(config, "train"))
    orders = []
    for epoch in range(2):
        found: list[tuple[int, int]] = []
        for number in range(streams):
            stream = Stream(recipe(config, tokenizer, Packing(32)), number, streams)
            assert stream.by_units == by_units
            ends = 0
            for _, piece in stream._documents(Position()):
                ends += piece is None
                if ends > epoch:
                    break
                if piece is not None and ends == epoch:
                    found.append((piece.address >> 32, piece.address & 0xFFFFFFFF))
        assert Counter(found) == wanted and (len(found) > 300 or files < 20 or "max_bytes" in dataset)
        orders.append(found)
    # Units come in another order in each epoch, unless an epoch is the beginning of the source.
    assert (orders[0] == orders[1]) == (files == 1 or "max_documents" in dataset or "max_bytes" in dataset)


@pytest.mark.parametrize(
    ("kind", "packing"),
    [
        ("text", Packing(24)),
        ("text", Packing(24, overlap=5, begin=0, document_masking=True)),
        ("text", Packing(24, packing="partial", ahead=0)),
        ("prompt_response", Packing(24)),
        ("prompt_response", Packing(24, packing="best_fit")),
        ("pairs", Packing(24, ahead=0, packing="truncate", pairs=True)),
    ],
)
def test_one_block_gives_the_windows_of_shards(
    tmp_path: Path, tokenizer: Tokenizer, kind: str, packing: Packing
) -> None:
    fields = {"text": ("text",), "prompt_response": ("prompt", "response"), "pairs": ("source", "target")}[kind]
    config = config_for(tmp_path, write_documents(tmp_path / "d.jsonl", 90, fields), dataset={"kind": kind})
    tokenise(config, tokenizer)
    index = WindowIndex(ShardSet.open(tmp_path / "tokens", "train"), packing)
    wanted = index.gather(np.arange(len(index)))
    in_order = Stream(recipe(config, tokenizer, packing, shuffle=False), 0, 1).take(len(index))
    mixed = Stream(recipe(config, tokenizer, packing), 0, 1).take(len(index))
    moved = np.lexsort(wanted.tokens.T), np.lexsort(mixed.tokens.T)
    for name in ("tokens", "lengths", "scored", "target_tokens", "target_lengths", "documents"):
        there, here, elsewhere = (getattr(one, name) for one in (wanted, in_order, mixed))
        assert (there is None) == (here is None)
        if there is not None:
            assert (there == here).all(), name
            assert name in ("scored", "documents") or (there[moved[0]] == elsewhere[moved[1]]).all(), name
    assert not (mixed.tokens == wanted.tokens).all()


def test_a_stream_goes_on_from_any_window(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = config_for(tmp_path, write_documents(tmp_path / "d.jsonl", 130))
    how = recipe(config, tokenizer, Packing(16), buffer=30)
    for number, streams in ((0, 1), (1, 2)):
        whole = Stream(how, number, streams).take(400)
        chance = random.Random(number)
        for _ in range(6):
            stream = Stream(how, number, streams)
            done = chance.randrange(390)
            for part in (done // 3, done - done // 3):
                if part:
                    stream.take(part)
            position = Position(**json.loads(json.dumps(stream.position.__dict__)))
            assert (Stream(how, number, streams, position).take(10).tokens == whole.tokens[done : done + 10]).all()
    assert len({row.tobytes() for row in whole.tokens[:350]}) < 350, "this should have been more than an epoch"


def test_on_another_number_of_streams_nothing_is_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for files, before, after in ((1, 3, 2), (24, 2, 3), (24, 3, 5)):
        path = many_files(tmp_path / f"{files} {before} {after}", files, 120 // files)
        how = recipe(config_for(tmp_path, path), tokenizer, Packing(400, packing="truncate"), buffer=7)
        seen: list[bytes] = []
        streams = [Stream(how, number, before) for number in range(before)]
        for number, stream in enumerate(streams):
            seen += [row.tobytes() for row in stream.take(10 + 3 * number).tokens]
        positions = goes_on([vars(stream.position) for stream in streams], after)
        assert len(positions) == after
        for number, position in enumerate(positions):
            stream = Stream(how, number, after, position)
            for at, piece in stream._documents(position):
                if piece is None:
                    break
                assert at.turn < how.source.units
                seen += [row.tobytes() for row in stream._windows_of([piece]).gather(np.arange(1)).tokens]
        assert len(set(seen)) > 110 and len(seen) < 200
        everything = Stream(how, 0, 1).take(len(set(seen)) + 20)
        assert {row.tobytes() for row in everything.tokens} == set(seen)


def test_a_reader_without_documents_says_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = config_for(tmp_path, write_documents(tmp_path / "d.jsonl", 2))
    with pytest.raises(UserError, match="reader 3 of 3 finds nothing to train on"):
        Stream(recipe(config, tokenizer, Packing(16)), 2, 3).take(1)


def data_of(folder: Path, tokenizer: Tokenizer, dataset: dict | None = None, **data: Any) -> LanguageModelData:
    path = folder / "d.jsonl"
    config = config_for(
        folder,
        path if path.exists() else write_documents(path, 150),
        dataset=dataset or {},
        data={"max_seq_len": 24, "tokens": "on_the_fly", "shuffle_buffer": 20, **data},
        trainer={"max_steps": 40, "max_epochs": None, "global_batch_size": 6, "micro_batch_size": 2},
    )
    made = LanguageModelData(config, tokenizer, ModelFacts(vocab_size=tokenizer.vocab_size))
    made.total_steps = 60
    return made


def same(one: list[dict], other: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_after_a_resume_are_those_that_would_have_come(
    tmp_path: Path, tokenizer: Tokenizer, workers: int
) -> None:
    whole = list(islice(data_of(tmp_path, tokenizer, num_workers=workers).train_dataloader(), 40))
    places = torch.cat([batch["places"] for step in whole for batch in step])
    assert sorted(places.tolist()) == list(range(240)), "chance is drawn from places: each but once"
    chance = random.Random(workers)
    for step in (1, chance.randrange(2, 35), chance.randrange(2, 35)):
        stopped = data_of(tmp_path, tokenizer, num_workers=workers)
        batches = iter(stopped.train_dataloader())
        assert same([batch for one in islice(batches, step) for batch in one], [b for one in whole[:step] for b in one])
        write_json(tmp_path / "state.json", stopped.state_after(step))
        del batches
        again = data_of(tmp_path, tokenizer, num_workers=workers)
        again.start_step = step
        again.restore(json.loads((tmp_path / "state.json").read_text()))
        follow = list(islice(again.train_dataloader(), 5))
        assert same([batch for one in follow for batch in one], [b for one in whole[step : step + 5] for b in one])


def test_another_number_of_workers_is_told(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_of(tmp_path, tokenizer)
    list(islice(data.train_dataloader(), 7))
    assert "goes on with exactly the samples that would have followed" in " ".join(capsys.readouterr().out.split())
    other = data_of(tmp_path, tokenizer, num_workers=2)
    other.start_step = 7
    other.restore(data.state_after(7))
    loader = other.train_dataloader()
    said = capsys.readouterr().err
    assert "was read by 1 x 1 readers" in said and "now by 1 x 2" in said and "some come twice" in said
    assert len(list(islice(loader, 2))) == 2


def test_a_bad_document_stops_the_run_with_one_line_or_is_told(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_documents(tmp_path / "d.jsonl", 60)
    path.write_text(path.read_text() + "no json\n" + '{"other": 1}\n')
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"^\S*d.jsonl:61: not JSON[^\n]*$"):
            list(data_of(tmp_path, tokenizer, num_workers=workers).train_dataloader())
    config = data_of(tmp_path, tokenizer).config
    skipping = config.model_copy(update={"tokenize": config.tokenize.model_copy(update={"bad_documents": "skip"})})
    data = LanguageModelData(skipping, tokenizer, ModelFacts(vocab_size=tokenizer.vocab_size))
    steps = iter(data.train_dataloader())
    assert len(list(islice(steps, 3))) == 3 and data.state_after(3)[0]["skipped"] == {}
    assert len(list(islice(steps, 27))) == 27
    epochs = data.state_after(30)[0]["readers"][0]["turn"]
    assert data.state_after(30)[0]["skipped"] == {"not JSON": epochs, "no such field": epochs} and epochs > 1
    again = LanguageModelData(skipping, tokenizer, ModelFacts(vocab_size=tokenizer.vocab_size))
    again.start_step = 30
    again.restore(data.state_after(30))
    follow = iter(again.train_dataloader())
    assert same(next(follow), next(steps)) and again.state_after(31)[0]["skipped"] == data.state_after(31)[0]["skipped"]
    said = capsys.readouterr().err
    assert said.count("d.jsonl:61: not JSON") == 1 and said.count("d.jsonl:62: no such field") == 1


def test_held_splits_are_whole_or_say_that_they_are_not(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(tmp_path, tokenizer)
    tokenise(data.config, tokenizer)
    capsys.readouterr()
    shards = WindowIndex(ShardSet.open(tmp_path / "tokens", "validation"), data.packing)
    whole = data.windows("validation")
    assert len(whole) == len(shards) and whole.counts == shards.counts
    assert (whole.gather(np.arange(len(whole))).tokens == shards.gather(np.arange(len(whole))).tokens).all()
    counts, manifest = data.text_counts("validation"), shards.shards.manifest
    assert (counts.bytes, counts.words, counts.lines) == tuple(manifest[name] for name in ("bytes", "words", "lines"))
    assert counts.why_not is None and capsys.readouterr().out == ""
    monkeypatch.setattr(held, "MOST_TOKENS", 1000)
    less = data_of(tmp_path, tokenizer).windows("test")
    assert 1000 <= less.shards.n_tokens < 3000 and "read before a run on the fly" in capsys.readouterr().out
    config = data.config.model_copy(
        update={"trainer": data.config.trainer.model_copy(update={"validation_windows": 5})}
    )
    few = LanguageModelData(config, tokenizer, ModelFacts(vocab_size=tokenizer.vocab_size))
    assert [len(batch["targets"]) for batch in few.val_dataloader()[0]] == [2, 2, 1]
    assert few.windows("validation").shards.n_documents == held.AT_ONCE and capsys.readouterr().out == ""


def test_workers_outlive_what_is_meant_for_the_main_process(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A cluster sends its signals to all processes of a job: the step that is going on still needs its data."""
    for loader in (data_of(tmp_path, tokenizer, num_workers=2).train_dataloader(), Loader(list, 0, 1000, 2)):
        steps = iter(loader)
        before = [next(steps) for _ in range(2)]
        workers = multiprocessing.active_children()
        assert len(workers) == len(before) == 2
        for worker in workers:
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                os.kill(worker.pid, signum)
        assert len(list(islice(steps, 30))) == 30 and all(worker.is_alive() for worker in workers)
        del steps
        for worker in workers:
            worker.join(timeout=30)
        assert not any(worker.is_alive() for worker in workers)


REFUSED = {
    "trainer.max_epochs=2": "counts no windows before it reads them: the length of the run is trainer.max_steps",
    "trainer.max_steps=5 data.packing=none": "cannot know the longest document beforehand",
    "data.packing=truncate trainer.max_tokens=100": "takes windows to be full where it counts tokens",
    "trainer.max_steps=5 dataset.streamed=true": "dataset.streamed is for source: hub",
    "trainer.max_steps=5 data.mixture={a: 1, b: 2}": "data.mixture needs shards",
}


@pytest.mark.parametrize("keys", REFUSED)
def test_what_cannot_be_is_refused(tmp_path: Path, keys: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: {tokens: on_the_fly}\n")
    overrides = keys.replace(": ", ":\0").replace(", ", ",\0").split(" ")
    with pytest.raises(UserError, match=REFUSED[keys]):
        load_config(path, [one.replace("\0", " ") for one in overrides])


class Writes(L.Callback):
    """Each rank's targets, step by step, into the folder that BATCHES names."""

    def on_train_batch_start(self, trainer: L.Trainer, training: L.LightningModule, batch: list, index: int) -> None:
        rows = [row for one in batch for row in said(one)]
        path = Path(os.environ["BATCHES"]) / f"{training.steps:03}-{trainer.global_rank}.json"
        path.with_suffix(".part").write_text(json.dumps(rows))
        path.with_suffix(".part").rename(path)


def said(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """The targets of each row."""
    return [row[row != -100].tolist() for row in batch["targets"]]


def read_batches(folder: Path) -> dict[str, list[list[int]]]:
    """By step and rank."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def door(folder: Path, tokenizer: Tokenizer, **data: Any) -> Path:
    tokenizer.save(folder / "tokenizer")
    config = config_for(
        folder,
        write_documents(folder / "d.jsonl", 120),
        model={"arguments": {"width": 32, "depth": 1, "heads": 2}},
        data={"max_seq_len": 400, "tokens": "on_the_fly", "packing": "truncate", "shuffle_buffer": 16, **data},
        trainer={
            "max_steps": 20, "max_epochs": None, "global_batch_size": 8, "micro_batch_size": 2, "validate_every": None,
            "precision": "32-true", "accelerator": "cpu", "callbacks": ["tests.test_on_the_fly.Writes"],
            "validation_windows": 8,
        },
        checkpoints={"every": 3, "export": "none"},
        logging={"every": 1, "tensorboard": False},
    )  # fmt: skip
    path = folder / "fly.yaml"
    path.write_text(to_yaml(config.model_dump(exclude_unset=True)))
    return path


def start(path: Path, batches: Path, *more: str) -> subprocess.Popen:
    batches.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "BATCHES": str(batches), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), str(path), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return said + errors


def killed_and_continued(folder: Path, path: Path, whole: dict[str, list[list[int]]], *more: str) -> None:
    """A run that is killed -9 with all its children after a checkpoint, and goes on, sees what the whole one did."""
    process = start(path, folder / "before", "name=killed", *more)
    while not checkpoints.listed(folder / "runs/killed/checkpoints", "step"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "goes on after step" in finish(start(path, folder / "after", "name=killed", *more))
    before, after = read_batches(folder / "before"), read_batches(folder / "after")
    assert before and after and len(before) < len(whole) and len(after) < len(whole)
    assert before | after == whole
    assert before == {name: whole[name] for name in before}


def test_two_processes_share_the_documents(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """15 steps of 8 documents are an epoch of 120: the ranks, each with a worker, see all of them, and none twice."""
    path = door(tmp_path, tokenizer, num_workers=1)
    finish(start(path, tmp_path / "batches", "name=two", "trainer.devices=2", "trainer.max_steps=15"))
    of_ranks = read_batches(tmp_path / "batches")
    assert sorted(of_ranks) == [f"{step:03}-{rank}" for step in range(15) for rank in range(2)]
    everything = Stream(recipe(load_config(path), tokenizer, Packing(400, packing="truncate")), 0, 1).take(120)
    wanted = Counter(tuple(row[1:n].tolist()) for row, n in zip(everything.tokens, everything.lengths, strict=True))
    assert Counter(tuple(row) for rows in of_ranks.values() for row in rows) == wanted


def test_killed_and_continued_by_train_py(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = door(tmp_path, tokenizer, num_workers=2)
    data = LanguageModelData(load_config(path), tokenizer, ModelFacts(vocab_size=tokenizer.vocab_size))
    steps = islice(data.train_dataloader(), 20)
    whole = {f"{number:03}-0": [row for one in batch for row in said(one)] for number, batch in enumerate(steps)}
    killed_and_continued(tmp_path, path, whole)


@pytest.mark.proof
def test_killed_and_continued_in_two_processes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = door(tmp_path, tokenizer, num_workers=2)
    finish(start(path, tmp_path / "batches", "name=whole", "trainer.devices=2"))
    killed_and_continued(tmp_path, path, read_batches(tmp_path / "batches"), "trainer.devices=2")
