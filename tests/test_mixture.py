"""Mixtures: exact shares, a source's own place in closed form, and the same samples however a step is split."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from configs.contradictions import find
from configs.places import REPOSITORY, mixture_sources, scored_splits, split_dir, validation_names
from configs.schema import Config
from corpus.mixture import CYCLE, Mixture, rounded
from corpus.order import Order
from corpus.tokenising import tokenise
from dataset import LanguageModelData
from models.interface import ModelFacts
from tests.small_data import config_for, small_tokenizer, write_documents
from tokenizer.tokenizer import Tokenizer
from utils.messages import UserError
from utils.run_directory import read_metrics
from utils.yaml_writing import to_yaml

WEIGHTS = {"web": 7, "code": 2, "books": 0.5}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    """Three corpora, one of them in hundreds of shards, made by configs of their own."""
    folder = tmp_path_factory.mktemp("mixture")
    tokenizer = small_tokenizer(folder / "tokenizer")
    for seed, (name, shard_tokens) in enumerate({"web": 12, "code": 1500, "books": 400}.items()):
        path = write_documents(folder / f"{name}.jsonl", 250 if name == "web" else 90, seed=seed)
        tokenize = {"path": str(folder / "data" / name / "tokens"), "shard_tokens": shard_tokens}
        tokenise(config_for(folder, path, tokenize=tokenize), tokenizer)
    assert len(list((folder / "data/web/tokens/train").glob("part-*-shard-?????.safetensors"))) > 200
    return folder, tokenizer


def config_of(folder: Path, mixture: dict[str, float] | None = None, **sections: Any) -> Config:
    """A mixture; its own section dataset says nothing of where the documents are."""
    values = {
        **sections,
        "data": {"max_seq_len": 16, "mixture": mixture or WEIGHTS, **sections.get("data", {})},
        "trainer": {"max_epochs": None, "max_steps": 9, "global_batch_size": 8, **sections.get("trainer", {})},
    }
    config = config_for(folder, folder / "web.jsonl", **values)
    return config.model_copy(update={"tokenize": config.tokenize.model_copy(update={"path": None})})


def data_of(prepared: tuple[Path, Tokenizer], config: Config, rank: int = 0, ranks: int = 1) -> LanguageModelData:
    data = LanguageModelData(config, prepared[1], ModelFacts(vocab_size=320))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
    return data


def samples(batches: list[dict[str, torch.Tensor]]) -> dict[int, tuple]:
    """{place: (input ids, targets)}, without what fills short rows."""
    found = {}
    for batch in batches:
        for place, ids, targets in zip(
            *(batch[name].tolist() for name in ("places", "input_ids", "targets")), strict=True
        ):
            n = sum(target != -100 for target in targets)
            found[place] = (ids[:n], targets[:n])
    return found


def test_shares_are_exact_in_every_cycle_and_own_places_count_up() -> None:
    mixture = Mixture(WEIGHTS, seed=3)
    sources, own = mixture.at(np.arange(3 * CYCLE + 123))
    cycles = sources[: 3 * CYCLE].reshape(3, CYCLE)
    assert mixture.names == ["books", "code", "web"]
    for cycle in cycles:
        assert np.bincount(cycle).tolist() == [526, 2105, 7369]  # 10,000 x 0.5, 2 and 7 of 9.5
    assert not np.array_equal(cycles[0], cycles[1]) and len(set(sources[:40].tolist())) > 1
    for number in range(3):  # counted naively
        assert np.array_equal(own[sources == number], np.arange((sources == number).sum()))
        for places in (0, 1, CYCLE - 1, CYCLE, 2 * CYCLE + 77):
            assert mixture.had(places)[number] == (sources[:places] == number).sum()
    scattered = np.random.default_rng(0).permutation(3 * CYCLE)[:500]
    for found, whole in zip(mixture.at(scattered), (sources, own), strict=True):
        assert np.array_equal(found, whole[scattered])
    far = 10**12 * CYCLE + 5  # the count so far, of a place that nobody could count up to
    source, place = (int(values[0]) for values in mixture.at(np.array([far])))
    assert 0 <= place - 10**12 * int(mixture.counts[source]) < 6
    assert all(
        np.array_equal(a, b)
        for a, b in zip(mixture.at(scattered), Mixture(dict(reversed(WEIGHTS.items())), 3).at(scattered), strict=True)
    )


def test_shares_are_rounded_by_largest_remainder() -> None:
    assert rounded([1, 1, 1], CYCLE).tolist() == [3334, 3333, 3333]
    assert rounded([0.7, 0.3], CYCLE).tolist() == [7000, 3000]
    assert rounded([0.29996, 0.70004], CYCLE).tolist() == [3000, 7000]
    assert rounded([5], CYCLE).tolist() == [CYCLE]
    with pytest.raises(UserError, match="'b' would have less than one window in 10,000"):
        Mixture({"a": 1.0, "b": 1e-5}, seed=0)


@pytest.mark.parametrize("shuffle", [True, False])
def test_samples_do_not_depend_on_ranks_micro_batches_workers_or_resumes(
    prepared: tuple[Path, Tokenizer], shuffle: bool
) -> None:
    total, chance = 60, np.random.default_rng(0)

    def steps(rank: int, ranks: int, micro: int | None, start: int, workers: int = 0) -> list[list[dict]]:
        trainer = {"micro_batch_size": micro}
        config = config_of(prepared[0], data={"shuffle": shuffle, "num_workers": workers}, trainer=trainer)
        data = data_of(prepared, config, rank, ranks)
        data.start_step, data.total_steps = start, total
        return list(data.train_dataloader())

    whole = [samples(step) for step in steps(0, 1, None, 0)]
    # Each is the window that the source's own order has at its own place.
    data = data_of(prepared, config_of(prepared[0]))
    sources, own = Mixture(WEIGHTS, seed=0).at(np.arange(8 * total))
    names = ["books", "code", "web"]
    for place, (source, count) in enumerate(zip(sources, own, strict=True)):
        index = data.windows(f"{names[source]}.train")
        number = Order(len(index), 0, shuffle, of=names[source]).at(np.array([count]))
        row = index.gather(number)
        found = whole[place // 8][place]
        assert found[0] == row.tokens[0, : int(row.lengths[0]) - 1].tolist()
    for ranks, micro, start, workers in [
        (1, 2, 0, 0), (2, None, 0, 0), (2, 2, int(chance.integers(total)), 0), (4, 1, int(chance.integers(total)), 0),
        (4, 2, 0, 0), (1, 4, int(chance.integers(total)), 2), (1, None, total - 1, 0), (2, 1, 57, 2),
    ]:  # fmt: skip
        of_ranks = [steps(rank, ranks, micro, start, workers) for rank in range(ranks)]
        assert all(len(of_rank) == total - start for of_rank in of_ranks)
        for number in range(total - start):
            assert whole[start + number] == samples([batch for of_rank in of_ranks for batch in of_rank[number]])


def test_epochs_of_each_source_are_counted(prepared: tuple[Path, Tokenizer]) -> None:
    training = data_of(prepared, config_of(prepared[0], {"web": 0.7, "code": 0.3})).training
    epochs = training.epochs(2 * CYCLE)
    sizes = dict(zip(training.names, map(len, training.indices), strict=True))
    assert epochs == {"code": 6000 / sizes["code"], "web": 14_000 / sizes["web"]}
    tokens = [0.3 * CYCLE * training.indices[0].counts.input_tokens / sizes["code"]]
    tokens += [0.7 * CYCLE * training.indices[1].counts.input_tokens / sizes["web"]]
    assert len(training) == CYCLE and training.input_tokens == round(sum(tokens))


def test_each_source_is_a_validation_set_and_its_splits_have_names(prepared: tuple[Path, Tokenizer]) -> None:
    config = config_of(prepared[0])
    assert validation_names(config) == ["web", "code", "books"]
    assert split_dir(config, "code.test") == prepared[0] / "data/code/tokens/test"
    assert scored_splits(config)[:3] == ["web", "web.test", "web.train"]
    data = data_of(prepared, config)
    for name, loader in zip(validation_names(config), data.val_dataloader(), strict=True):
        scored = sum(int((batch["targets"] != -100).sum()) for batch in loader)
        assert scored == data.windows(name).counts.scored_tokens
    by_path = config_of(prepared[0], {str(prepared[0] / "data/web/tokens"): 1, "code": 1})
    assert list(mixture_sources(by_path)) == ["web", "code"]
    assert split_dir(by_path, "web") == prepared[0] / "data/web/tokens/validation"


def test_what_a_mixture_cannot_be_is_said(prepared: tuple[Path, Tokenizer], tmp_path: Path) -> None:
    def says(mixture: dict[str, float], **sections: Any) -> str:
        return " ".join(problem for _, problem in find(config_of(prepared[0], mixture, **sections)))

    assert says({"web": 0.7, "code": 0.3}) == ""
    assert "the weight of 'code' should be above 0, got 0" in says({"web": 1, "code": 0})
    assert "two corpora have the same name" in says({"web": 1, "/elsewhere/web/tokens": 1})
    assert "'test' cannot name a corpus" in says({"test": 1})
    assert "not trainer.max_epochs" in says({"web": 1}, trainer={"max_epochs": 1.0, "max_steps": None})
    assert "there are web, web.test, web.train" in says({"web": 1}, inference={"split": "near"})
    folder, tokenizer = prepared
    with pytest.raises(
        UserError, match=r"data.mixture, wiki.train: no .*wiki/tokens/train/manifest.json; make it with"
    ):
        len(data_of(prepared, config_of(folder, {"web": 1, "wiki": 1})).training)
    without = folder / "data/bare/tokens"
    shutil.copytree(folder / "data/code/tokens/train", without / "train")
    with pytest.raises(UserError, match=r"data.mixture, bare: no .*bare/tokens/validation/manifest.json"):
        len(data_of(prepared, config_of(folder, {"web": 1, "bare": 1})).training)
    other = small_tokenizer(tmp_path / "other", leave_out=("mask",))
    path = write_documents(tmp_path / "odd.jsonl", 20)
    odd = config_for(tmp_path, path, tokenize={"path": str(tmp_path / "odd/tokens")})
    tokenise(
        odd.model_copy(update={"tokenizer": odd.tokenizer.model_copy(update={"path": str(tmp_path / "other")})}), other
    )
    with pytest.raises(UserError, match="data.mixture, odd.train: .*another tokenizer"):
        len(data_of(prepared, config_of(folder, {"web": 1, str(tmp_path / "odd/tokens"): 1})).training)
    with pytest.raises(UserError, match="data.mixture, .*hold text, and dataset.kind is prompt_response"):
        len(data_of(prepared, config_of(folder, dataset={"kind": "prompt_response"})).training)


def test_a_mixture_is_trained_on_and_scored(prepared: tuple[Path, Tokenizer]) -> None:
    config = config_of(
        prepared[0], {"web": 0.7, "code": 0.3}, model={"arguments": {"width": 32, "depth": 1, "heads": 2}},
        trainer={"max_steps": 3, "precision": "32-true", "accelerator": "cpu", "validation_windows": 8},
        checkpoints={"export": "none"}, logging={"tensorboard": False}, inference={"max_samples": 4},
    )  # fmt: skip
    path = prepared[0] / "mixed.yaml"
    path.write_text(to_yaml(config.model_dump(exclude_unset=True)))

    def train(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(REPOSITORY / "train.py"), str(path), "--evaluate", *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    refused = train()
    assert refused.returncode == 2 and "inference.split: no split 'test'; there are web, web.test" in refused.stderr
    done = train("inference.split=code.test")
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ")[-1].strip() for line in done.stdout.splitlines() if "% of the windows" in line]
    assert lines[:2] == lines[2:] and lines[0].startswith("code: 30.00% of the windows, 0.0")  # as planned, as done
    validations = [
        line for line in read_metrics(prepared[0] / "runs/mixed/metrics.jsonl") if line["kind"] == "validation"
    ]
    assert {line["set"] for line in validations} == {"web", "code"}
    results = json.loads((prepared[0] / "runs/mixed/inference/code.test-best/results.json").read_text())
    assert results["split"] == "code.test"
