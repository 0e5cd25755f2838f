"""A dataset of the Hub, tokenised as it comes: the documents of a download, at one commit, whatever is killed."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_hub import FakeHub, serving
from small_data import sentence, small_tokenizer
from test_data_setup import digests, hub_directory

from configs.schema import Config
from corpus import held
from corpus.documents import read_documents
from corpus.hub_rows import HubSource, pinned, record_path
from corpus.lineage import chain
from corpus.shards import ShardSet
from corpus.tokenising import tokenise
from data_setup import hub as downloading
from data_setup.download_dataset import look_at_stream
from data_setup.raw_text import RawFolder
from dataset import LanguageModelData
from models.interface import ModelFacts
from tests.conftest import REPOSITORY, RunScript
from tokenizer.tokenizer import Tokenizer
from tokenizer.training_text import TrainingText
from utils.messages import UserError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("one") / "tokenizer")


def jsonl_directory(folder: Path, files: int, rows: int, seed: int = 0) -> Path:
    """In the Hub's layout: two configurations, one of them of several files, with fields that JSON would not know."""
    import random

    chance = random.Random(seed)
    for name, count in (("large", files), ("small", 1)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            lines = [json.dumps({"content": sentence(chance), "when": "2024-05-01T00:00:00"}) for _ in range(rows)]
            (folder / name / f"train-{number}.jsonl").write_text("\n".join(lines) + "\n")
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*"}]} for name in ("large", "small")
    ]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return folder


def config_for(folder: Path, name: str, tokenize: dict | None = None, **dataset: Any) -> Config:
    return Config(
        paths={"data": str(folder / "data"), "runs": str(folder / "runs")},
        dataset={"source": "hub", "name": name, "streamed": True, **dataset},
        tokenize={"num_workers": 0, **(tokenize or {})},
        data={"tokens": "on_the_fly", "max_seq_len": 16, "shuffle_buffer": 30},
        trainer={"max_steps": 20, "max_epochs": None, "global_batch_size": 4},
    )


def downloaded(config: Config) -> Config:
    """The same by way of stored raw text."""
    other = config.model_copy(
        update={
            "dataset": config.dataset.model_copy(update={"streamed": False}),
            "paths": config.paths.model_copy(update={"data": config.paths.data + "-downloaded"}),
        }
    )
    downloading.make(other, RawFolder(other))
    return other


def texts(config: Config, split: str) -> list[str]:
    return [document.fields["text"] for document in read_documents(config, split)]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_the_documents_are_those_of_a_download(tmp_path: Path, tokenizer: Tokenizer, kind: str) -> None:
    if kind == "parquet":
        config = config_for(
            tmp_path, str(hub_directory(tmp_path / "hub", rows=300, validation=40)),
            splits={"train": "train", "validation": "validation"},
        )  # fmt: skip
    else:
        config = config_for(
            tmp_path, str(jsonl_directory(tmp_path / "hub", 3, 50)), subset="large", splits={"train": "train"},
            fields={"text": "{content} {when}"}, max_documents=120,
        )  # fmt: skip
    other = downloaded(config)
    tokenise(config, tokenizer)
    tokenise(other, tokenizer)
    for split in config.dataset.splits:
        assert texts(config, split) == texts(other, split)
        one, two = (ShardSet.open(Path(c.paths.data) / places(c) / "tokens", split) for c in (config, other))
        assert (
            one.n_documents
            == two.n_documents
            == {"parquet": {"train": 300, "validation": 40}, "jsonl": {"train": 120}}[kind][split]
        )
        for name in ("tokens", "offsets"):
            assert (getattr(one.shards[0], name) == getattr(two.shards[0], name)).all()
    assert not (Path(config.paths.data) / places(config) / "raw").exists()
    source = HubSource(config, ["train"])
    assert source.units == {"parquet": 2, "jsonl": 3}[kind]
    rows = [row.record for _, row in source.rows(1, 7)]
    assert rows == [row.record for _, row in source.rows(1)][7:] and len(rows) > 40


def places(config: Config) -> str:
    from configs.places import dataset_name

    return dataset_name(config)


def test_splits_that_the_hub_lacks_are_cut_and_end_with_train(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = config_for(
        tmp_path, str(jsonl_directory(tmp_path / "hub", 2, 500)), subset="large", fields={"text": "content"}
    )
    found = {split: texts(config, split) for split in ("train", "validation", "test")}
    everything = [row.record["content"] for unit in range(2) for _, row in HubSource(config, ["train"]).rows(unit)]
    assert sorted(sum(found.values(), [])) == sorted(everything)
    assert {split: len(of_split) for split, of_split in found.items()} == {"train": 980, "validation": 10, "test": 10}
    whole = {one.split: one.manifest["tokens"] for one in tokenise(config, tokenizer)}
    capped = config_for(
        tmp_path / "capped", str(tmp_path / "hub"), {"max_tokens": whole["train"] // 2}, subset="large",
        fields={"text": "content"},
    )  # fmt: skip
    tokens = {one.split: one.manifest["tokens"] for one in tokenise(capped, tokenizer)}
    assert whole["train"] // 2 - 100 < tokens["train"] <= whole["train"] // 2
    for split in ("validation", "test"):  # as far as train was read, and not the whole stream for their sake
        assert 0 < tokens[split] < 0.8 * whole[split]


def test_a_wrong_name_is_one_line(tmp_path: Path) -> None:
    directory = str(jsonl_directory(tmp_path / "hub", 1, 5))
    for wrong, said in (
        ({"subset": "medium"}, "medium"),
        ({"subset": "large", "splits": {"train": "train", "validation": "dev"}}, "no split 'dev'; it has train"),
    ):
        with pytest.raises(UserError, match=said) as error:
            texts(config_for(tmp_path, directory, **wrong), "train")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_trained_on_without_shards(
    tmp_path: Path, tokenizer: Tokenizer, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = str(jsonl_directory(tmp_path / "hub", 2, 100))
    config = config_for(tmp_path, directory, subset="large", fields={"text": "content"})
    config = config.model_copy(update={"data": config.data.model_copy(update={"num_workers": workers})})

    def made(step: int = 0, state: Any = None) -> LanguageModelData:
        data = LanguageModelData(config, tokenizer, ModelFacts(vocab_size=tokenizer.vocab_size))
        data.total_steps, data.start_step = 40, step
        data.restore(state)
        return data

    data = made()
    steps = iter(data.train_dataloader())
    whole = [step[0]["input_ids"] for step in islice(steps, 13)]
    follow = [step[0]["input_ids"] for step in islice(made(13, data.state_after(13)).train_dataloader(), 4)]
    assert all(torch.equal(step[0]["input_ids"], other) for step, other in zip(islice(steps, 4), follow, strict=True))
    assert len({row.numpy().tobytes() for step in whole for row in step}) == 52
    assert data.windows("validation").shards.n_documents == 2
    monkeypatch.setattr(held, "AT_ONCE", 1)
    monkeypatch.setattr(held, "MOST_TOKENS", 1000)  # a hundredth of that is all that is read of a hundredth
    assert made().windows("validation").shards.n_documents == 1


class Place:
    """A Hub, and a machine with a config."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self.folder, self.hub = folder, hub
        self.commit = hub.commit("datasets", "org/text", jsonl_directory(folder / "first", 3, 8000))
        self.env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
        small_tokenizer(folder / "tokenizer")

    def config(self, name: str) -> Path:
        values = {
            "paths": {"data": str(self.folder / name), "runs": str(self.folder / "runs")},
            "dataset": {"source": "hub", "name": "org/text", "subset": "large", "streamed": True,
                        "splits": {"train": "train"}, "fields": {"text": "content"}},
            "tokenizer": {"path": str(self.folder / "tokenizer")},
            "tokenize": {"num_workers": 0, "shard_tokens": 20_000, "max_tokens": 450_000},
        }  # fmt: skip
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def tokens(self, name: str) -> Path:
        return self.folder / name / "org--text--large" / "tokens" / "train"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving() as hub:
        yield Place(tmp_path_factory.mktemp("streamed"), hub)


def test_killed_while_the_branch_moves(place: Place, run_script: RunScript) -> None:
    done = run_script(["tokenize_data.py", place.config("whole")], env=place.env)
    assert done.returncode == 0, done.stderr
    whole = digests(place.tokens("whole"))
    assert len(whole) > 20

    command = [sys.executable, "tokenize_data.py", str(place.config("killed"))]
    environment = os.environ | place.env | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    while len(list(place.tokens("killed").glob("*.safetensors"))) < 4:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (place.tokens("killed") / "manifest.json").exists()

    newer = place.hub.commit("datasets", "org/text", jsonl_directory(place.folder / "second", 3, 8000, seed=1))
    again = run_script(["tokenize_data.py", place.config("killed")], env=place.env)
    assert again.returncode == 0 and "going on after" in again.stdout, again.stderr
    assert digests(place.tokens("killed")) == whole
    record = json.loads((place.tokens("killed").parent.parent / "streamed.json").read_text())
    assert record["commit"] == place.commit and record["units"] == {"train": 3}

    door = ["-m", "data_setup.download_dataset", place.config("killed"), "--restart"]
    assert newer in run_script(door, env=place.env).stdout
    refused = run_script(["tokenize_data.py", place.config("killed")], env=place.env)
    assert refused.returncode == 2 and "made with other settings" in refused.stderr


def test_a_tokenizer_reads_its_bytes_from_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(
        tmp_path, str(jsonl_directory(tmp_path / "hub", 3, 100)), subset="large", fields={"text": "content"}
    )
    config = config.model_copy(update={"tokenizer": config.tokenizer.model_copy(update={"training_bytes": 4000})})
    read, rows = [], HubSource.rows
    monkeypatch.setattr(HubSource, "rows", lambda self, unit, start=0: read.append(unit) or rows(self, unit, start))
    assert 3900 < sum(len(text.encode()) for text in TrainingText(config)) <= 4000
    assert read == [0], "the other files are not needed"


def test_a_directory_is_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_for(
        tmp_path, str(jsonl_directory(tmp_path / "hub", 2, 5)), subset="large", fields={"text": "content"}
    )
    assert pinned(config) == {
        "name": config.dataset.name, "subset": "large", "asked": None, "commit": None, "units": {"train": 2}
    } and not record_path(config).exists()  # fmt: skip
    look_at_stream(config, argparse.Namespace(restart=False, config="mine.yaml", overrides=[]))
    said = capsys.readouterr().out
    assert "nothing to download" in said and "none, it is a directory" in said and "2 files" in said
    raw = chain({"train": tmp_path / "no shards"}, config, None, run=None, deep=False)[0]
    assert raw.what == "raw text" and raw.mark == "✓" and "not stored" in raw.said  # and nobody is told to store it
