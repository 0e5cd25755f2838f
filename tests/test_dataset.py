"""Batches: the same samples whatever the devices, the micro-batches and the resumes; nothing scored twice or lost."""

import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.schema import Config
from corpus.tokenising import tokenise
from dataset import LanguageModelData, evenly_spaced
from models.interface import ModelFacts
from tests.small_data import config_for, small_tokenizer, write_documents
from tokenizer.tokenizer import Tokenizer
from training.loader import Loader
from training.measures import input_tokens
from utils.messages import UserError

N = 150
CAUSAL = ModelFacts(vocab_size=320)
ENCODER = ModelFacts(vocab_size=320, causal=False)
ENCODER_DECODER = ModelFacts(vocab_size=320, causal=False, encoder_decoder=True)
KINDS = {"text": ("text",), "prompt_response": ("prompt", "response"), "pairs": ("source", "target")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    """Shards of each kind of documents."""
    folder = tmp_path_factory.mktemp("dataset")
    tokenizer = small_tokenizer(folder / "tokenizer")
    for kind, fields in KINDS.items():
        write_documents(folder / f"{kind}.jsonl", N, fields)
        tokenise(config_of(folder, kind), tokenizer)
    return folder, tokenizer


def config_of(folder: Path, kind: str = "text", **sections: Any) -> Config:
    path = folder / f"{kind}.jsonl"
    tokenize = {"path": str(folder / "tokens" / kind), "shard_tokens": 1500}
    dataset = {"kind": kind, "validation_path": {"near": str(path), "far": str(path)}}
    return config_for(folder, path, dataset=dataset, tokenize=tokenize, **sections)


def data_of(
    prepared: tuple[Path, Tokenizer], kind: str = "text", facts: ModelFacts = CAUSAL, rank: int = 0, ranks: int = 1,
    **sections: Any,
) -> LanguageModelData:  # fmt: skip
    sections = {"trainer": {"global_batch_size": 8}, **sections}
    data = LanguageModelData(config_of(prepared[0], kind, **sections), prepared[1], facts)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
    return data


def rows(batches: list[dict[str, Tensor]]) -> dict[int, tuple]:
    """What each sample looks like without its filling: {place: (input ids, targets)}."""
    found = {}
    for batch in batches:
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        for i, place in enumerate(batch["places"].tolist()):
            targets = batch["targets"][i]
            if targets.shape == mask[i].shape and "decoder_input_ids" not in batch:
                assert (targets[~mask[i]] == -100).all()
                targets = targets[mask[i]]
            else:
                targets = targets[targets != -100]
            found[place] = (batch["input_ids"][i][mask[i]].tolist(), targets.tolist())
    return found


SETTINGS = {
    "full": {"data": {"max_seq_len": 16}},
    "partial, left": {"data": {"max_seq_len": 12, "packing": "partial", "overlap": 3, "padding_side": "left"}},
    "truncate, wide": {"data": {"max_seq_len": 40, "packing": "truncate", "pad_to": "max_seq_len", "window_bos": True}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_has_the_same_samples_however_it_is_split(prepared: tuple[Path, Tokenizer], name: str) -> None:
    def steps(rank: int, ranks: int, micro: int | None, start: int = 0, workers: int = 0) -> list[list[dict]]:
        trainer = {"global_batch_size": 8, "micro_batch_size": micro}
        sections = {"data": {**SETTINGS[name]["data"], "num_workers": workers}, "trainer": trainer}
        data = data_of(prepared, rank=rank, ranks=ranks, **sections)
        data.start_step, data.total_steps = start, 2 * (data.n_windows // 8) + 1
        return list(data.train_dataloader())

    whole = steps(0, 1, None)
    data = data_of(prepared, **SETTINGS[name])
    assert len(whole) == 2 * (data.n_windows // 8) + 1 and all(len(step) == 1 for step in whole)
    by_two = [steps(rank, 2, 2) for rank in (0, 1)]
    assert all(len(step) == 2 and len(step[0]["places"]) == 2 for half in by_two for step in half)
    for number, step in enumerate(whole):
        assert sorted(rows(step)) == list(range(8 * number, 8 * number + 8))
        assert rows(step) == rows([micro for half in by_two for micro in half[number]])
    start = random.Random(name).randrange(len(whole))
    by_four = [steps(rank, 4, 1, start) for rank in range(4)]
    for number, step in enumerate(whole[start:]):
        assert rows(step) == rows([micro for quarter in by_four for micro in quarter[number]])
    # Over an epoch every window comes once.
    seen = list(itertools.chain.from_iterable(rows(step).values() for step in whole))[: data.n_windows]
    windows = data.windows("train").gather(range(data.n_windows))
    assert sorted(ids for ids, _ in seen) == sorted(
        row[: n - 1].tolist() for row, n in zip(windows.tokens, windows.lengths, strict=True)
    )  # noqa: E501
    # Resuming is seeking; worker processes change nothing.
    for later in (steps(0, 1, 4, start=5), steps(0, 1, 4, start=5, workers=2)):
        again = steps(0, 1, 4)[5:]
        assert len(later) == len(again)
        for one, other in zip(itertools.chain(*later), itertools.chain(*again), strict=True):
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_short_rows_are_sorted_into_micro_batches_and_masked(prepared: tuple[Path, Tokenizer]) -> None:
    sections = {
        "data": {"max_seq_len": 60, "packing": "none"},
        "trainer": {"global_batch_size": 16, "micro_batch_size": 4},
    }
    right = next(iter(data_of(prepared, **sections).train_dataloader()))
    left = next(
        iter(data_of(prepared, **{**sections, "data": {**sections["data"], "padding_side": "left"}}).train_dataloader())
    )
    widths = [batch["input_ids"].shape[1] for batch in right]
    assert widths == sorted(widths) and len(set(widths)) > 1
    for one, other in zip(right, left, strict=True):
        assert one["attention_mask"].sum(1).max() == one["input_ids"].shape[1]
        assert one["attention_mask"][:, 0].all() and other["attention_mask"][:, -1].all()
        assert rows([one]) == rows([other]) and "position_ids" not in one
        real = other["attention_mask"].bool()
        assert other["position_ids"][real].tolist() == list(itertools.chain(*(range(int(n)) for n in real.sum(1))))


def test_masks_are_there_where_they_say_something(prepared: tuple[Path, Tokenizer]) -> None:
    batch = next(iter(data_of(prepared, data={"max_seq_len": 16}).train_dataloader()))[0]
    assert set(batch) == {"input_ids", "targets", "places"} and batch["input_ids"].dtype == torch.int64
    encoder = data_of(prepared, facts=ENCODER, objective={"name": "masked"}, data={"max_seq_len": 16})
    assert "attention_mask" in next(iter(encoder.train_dataloader()))[0]
    unmasked = ModelFacts(vocab_size=320, takes_attention_mask=False)
    data = data_of(prepared, facts=unmasked, data={"max_seq_len": 16, "packing": "partial"})
    assert "attention_mask" not in next(iter(data.train_dataloader()))[0]


def test_masks_of_training_change_with_the_epoch_and_those_of_validation_do_not(
    prepared: tuple[Path, Tokenizer],
) -> None:
    data = data_of(prepared, facts=ENCODER, objective={"name": "masked"}, data={"max_seq_len": 16, "shuffle": False})
    data.total_steps = 2 * (data.n_windows // 8) + 2
    targets = [row for step in data.train_dataloader() for row in step[0]["targets"].tolist()]
    assert targets[0] != targets[data.n_windows]
    first, again = (torch.cat([batch["targets"] for batch in list(data.val_dataloader()[0])[:-1]]) for _ in range(2))
    assert torch.equal(first, again) and first[0].tolist() != targets[0]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_scores_every_window_once_on_any_number_of_devices(
    prepared: tuple[Path, Tokenizer], ranks: int
) -> None:
    sections = {"data": {"max_seq_len": 16}, "trainer": {"global_batch_size": 12, "micro_batch_size": 4}}
    scored: list[tuple[int, int]] = []
    counts = set()
    for rank in range(ranks):
        data = data_of(prepared, rank=rank, ranks=ranks, **sections)
        loaders = data.val_dataloader()
        assert len(loaders) == 2  # near and far
        batches = list(loaders[0])
        assert len(batches) == len(loaders[0])
        counts.add(len(batches))
        for batch in batches:
            for place, row in zip(batch["places"].tolist(), batch["targets"].tolist(), strict=True):
                scored += [(place, t) for t, target in enumerate(row) if target != -100]
    assert len(counts) == 1  # ranks wait for each other
    assert len(scored) == len(set(scored)) == data.windows("near").counts.scored_tokens


def test_ranks_that_run_out_get_batches_with_nothing_scored(prepared: tuple[Path, Tokenizer]) -> None:
    sections = {
        "data": {"max_seq_len": 16},
        "trainer": {"global_batch_size": 8, "micro_batch_size": 2, "validation_windows": 5},
    }
    batches = [list(data_of(prepared, rank=rank, ranks=2, **sections).val_dataloader()[0]) for rank in (0, 1)]
    assert [len(b["places"]) for b in batches[0]] == [2, 1] and len(batches[1]) == 2
    sections["trainer"]["validation_windows"] = 9  # 5 and 4: the last of rank 1 has nothing left
    last = list(data_of(prepared, rank=1, ranks=2, **sections).val_dataloader()[0])[-1]
    assert len(last["places"]) == 1 and (last["targets"] == -100).all()
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7] and evenly_spaced(3, 9).tolist() == [0, 1, 2]


def test_tokens_of_an_epoch_are_counted_without_filling(prepared: tuple[Path, Tokenizer]) -> None:
    for kind, facts, more in [
        ("text", CAUSAL, {"data": {"max_seq_len": 16}}),
        ("text", CAUSAL, {"data": {"max_seq_len": 10, "packing": "partial", "window_bos": True}}),
        ("prompt_response", CAUSAL, {"data": {"max_seq_len": 30, "packing": "truncate"}}),
        ("pairs", ENCODER_DECODER, {"data": {"max_seq_len": 60, "packing": "none"}, "objective": {"name": "seq2seq"}}),
    ]:
        data = data_of(prepared, kind, facts, **more, trainer={"global_batch_size": 1})
        assert sum(input_tokens(step[0]) for step in data.train_dataloader()) == data.tokens_per_epoch


def test_pairs_come_as_source_and_target(prepared: tuple[Path, Tokenizer]) -> None:
    tokenizer = prepared[1]
    more = {"data": {"max_seq_len": 60, "packing": "none"}, "objective": {"name": "seq2seq"}}
    data = data_of(prepared, "pairs", ENCODER_DECODER, **more, inference={"batch_size": 7})
    windows, prompts = {}, {}
    for batch in data.test_dataloader():
        for i, place in enumerate(batch["places"].tolist()):
            said = batch["targets"][i][batch["targets"][i] != -100].tolist()
            assert batch["decoder_input_ids"][i, : len(said)].tolist() == [tokenizer.pad_id] + said[:-1]  # the start id
            assert said[-1] == tokenizer.eos_id and tokenizer.decode(said) == data.reference(place)
            windows[place] = batch["input_ids"][i][batch["attention_mask"][i].bool()].tolist()
        for index, ids, mask in zip(batch["index"].tolist(), batch["prompt_ids"], batch["prompt_mask"], strict=True):
            prompts[index] = ids[mask.bool()].tolist()
            assert tokenizer.decode(prompts[index]) == data.prompt(index)
    assert prompts == windows and len(windows) == N
    as_pairs = data_of(prepared, "prompt_response", ENCODER_DECODER, **more)
    batch = next(iter(as_pairs.test_dataloader()))
    said = batch["targets"][0][batch["targets"][0] != -100].tolist()
    assert as_pairs.reference(0) == tokenizer.decode(said).removeprefix(" ")


def test_prompts_are_filled_on_the_left_and_limited(prepared: tuple[Path, Tokenizer]) -> None:
    tokenizer = prepared[1]
    more = {"data": {"max_seq_len": 16, "window_bos": True}, "inference": {"max_samples": 20, "batch_size": 8}}
    data = data_of(prepared, "prompt_response", **more)
    batches = list(data.test_dataloader())
    assert sorted(i for batch in batches for i in batch["index"].tolist()) == list(range(20))
    assert sum(len(batch["places"]) for batch in batches) == 20
    for i, ids, mask in zip(*(batches[0][key] for key in ("index", "prompt_ids", "prompt_mask")), strict=True):
        real = ids[mask.bool()].tolist()
        assert mask[-1] and mask.tolist() == sorted(mask.tolist())
        assert real[0] == tokenizer.bos_id and data.prompt(int(i)).startswith(tokenizer.decode(real))
    short = ModelFacts(vocab_size=320, max_positions=20)
    data = data_of(prepared, "prompt_response", short, **{**more, "inference": {"decoding": {"max_new_tokens": 12}}})
    batch = next(iter(data.test_dataloader()))
    assert batch["prompt_ids"].shape[1] == 8
    for i, ids in zip(batch["index"].tolist(), batch["prompt_ids"].tolist(), strict=True):
        kept = data.samples.prompt_ids(i).tolist()[-7:]  # the end of a prompt, which the answer follows
        assert ids[-len(kept) - 1 :] == [tokenizer.bos_id, *kept]
    assert data.text_counts("test").why_not is None and "only 3" in data.text_counts("test", 3).why_not


def test_what_does_not_go_together_is_refused(prepared: tuple[Path, Tokenizer], tmp_path: Path) -> None:
    def refused(says: str, *arguments: Any, **sections: Any) -> None:
        with pytest.raises(UserError, match=says):
            data = data_of(prepared, *arguments, **sections)
            list(data.train_dataloader())

    refused("max_seq_len=256 is longer than the model's 64 positions", "text", ModelFacts(max_positions=64))
    refused("id .* the model's vocabulary has only 100", "text", ModelFacts(vocab_size=100))
    refused("divisible by micro_batch_size x devices = 3 x 1", trainer={"global_batch_size": 8, "micro_batch_size": 3})
    refused("divisible", "text", CAUSAL, 0, 3)
    refused("seq2seq needs an encoder-decoder", "pairs", objective={"name": "seq2seq"}, data={"packing": "none"})
    refused("needs a model without encoder", "text", ENCODER_DECODER)
    refused("the model sees both sides", "text", ENCODER)
    refused("pairs needs an objective that reads pairs", "pairs")
    changed = {"tokenize": {"path": str(prepared[0] / "tokens" / "text"), "document_end": "none"}}
    with pytest.raises(UserError, match="tokenize.document_end: 'eos' there, 'none' in the config"):
        path = prepared[0] / "text.jsonl"
        LanguageModelData(config_for(prepared[0], path, **changed), prepared[1], CAUSAL).windows("train")
    refused(
        "pairs or prompt_response", "text", ENCODER_DECODER, objective={"name": "seq2seq"}, data={"packing": "none"}
    )
    refused("do not fit into data.max_seq_len=5", data={"max_seq_len": 5, "packing": "none"})
    unmasked = ModelFacts(takes_attention_mask=False)
    refused("takes no attention_mask", "text", unmasked, data={"packing": "partial", "padding_side": "left"})
    with pytest.raises(UserError, match="made with another tokenizer"):
        other = small_tokenizer(tmp_path / "other", leave_out=("mask",))
        LanguageModelData(config_of(prepared[0]), other, CAUSAL).windows("train")
    with pytest.raises(UserError, match="no BOS or CLS token"):
        bare = small_tokenizer(tmp_path / "bare", leave_out=("bos",))
        LanguageModelData(config_of(prepared[0], data={"window_bos": True}), bare, CAUSAL)
    with pytest.raises(UserError, match="needs documents with an answer"):
        data_of(prepared, inference={"generate": True}).test_dataloader()
    with pytest.raises(UserError, match="make it with: python tokenize_data.py"):
        data_of(prepared).windows("elsewhere")
    lacking = config_for(tmp_path, prepared[0] / "text.jsonl", dataset={"validation_path": None})
    with pytest.raises(UserError, match="the config names no documents for the split 'validation'"):
        LanguageModelData(lacking, prepared[1], CAUSAL).windows("validation")


def test_shards_of_other_documents_are_not_taken_for_these(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, tokenizer = write_documents(tmp_path / "a.jsonl", 40), small_tokenizer(tmp_path / "tokenizer")

    def config(place: Path | None, **dataset: Any) -> Config:
        return config_for(tmp_path, path, dataset=dataset, tokenize={"path": place and str(place)})

    for place in (None, tmp_path / "named"):
        tokenise(config(place, max_documents=30), tokenizer)
        assert LanguageModelData(config(place, max_documents=30), tokenizer, CAUSAL).n_windows
    with pytest.raises(
        UserError, match=r"\[max_documents, max_bytes\]: \[30, None\] there, \[None, None\] in the config"
    ):
        LanguageModelData(config(None), tokenizer, CAUSAL).windows("train")
    assert "warning" not in capsys.readouterr().err
    LanguageModelData(config(tmp_path / "named"), tokenizer, CAUSAL).windows("train")
    assert "made from other documents" in capsys.readouterr().err


def test_references_are_there_for_a_split_that_ends_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = small_tokenizer(tmp_path / "tokenizer", leave_out=("mask",))
    path = write_documents(tmp_path / "pairs.jsonl", 40, KINDS["pairs"])
    own = {"kind": "pairs", "validation_path": None}
    more = {"data": {"packing": "truncate"}, "objective": {"name": "seq2seq"}}
    config = config_for(tmp_path, path, dataset=own, tokenize={"max_tokens": 400}, **more)
    tokenise(config, tokenizer)
    data = LanguageModelData(config, tokenizer, ENCODER_DECODER)
    assert 2 < len(data.samples) < 30
    assert data.reference(1) == json.loads(path.read_text().splitlines()[1])["target"]
    assert "references are decoded" not in capsys.readouterr().err


@pytest.mark.parametrize("start", [0, 3])
def test_items_made_together_are_those_made_one_by_one_and_can_be_pinned(
    start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[range] = []

    def items(numbers: range) -> list[list[dict[str, Tensor]]]:
        asked.append(numbers)
        return [[{"input_ids": torch.tensor([number])}] for number in numbers]

    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 100)  # what only a GPU's machine can do
    found = [item[0]["input_ids"].item() for item in Loader(items, start, 9, 0, at_once=4, pinned=True)]
    assert found == [100 + number for number in range(start, 9)]
    assert asked == [range(start, 4), range(4, 8), range(8, 9)]
