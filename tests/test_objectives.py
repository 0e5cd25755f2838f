"""Objectives: causal and seq2seq by eye, masking by its published statistics and as a function of the place."""

import numpy as np
import pytest

from corpus.packing import Windows
from objectives import build_objective
from objectives.causal import Causal
from objectives.facts import VocabularyFacts
from objectives.masked import Masked
from objectives.seq2seq import Seq2seq
from utils.messages import UserError

STARTS = np.zeros(1000, bool)
STARTS[500:] = True  # tokens from 500 on begin a word
FACTS = VocabularyFacts(
    1000,
    bos_id=0,
    eos_id=1,
    pad_id=2,
    mask_id=3,
    special_ids=(0, 1, 2, 3),
    starts_word=lambda: STARTS,
    decoder_start_id=7,
)


def windows_of(tokens: np.ndarray, places: np.ndarray | None = None, scored: np.ndarray | None = None) -> Windows:
    lengths = np.full(len(tokens), tokens.shape[1])
    places = np.arange(len(tokens)) if places is None else places
    return Windows(tokens, lengths, np.ones(tokens.shape, bool) if scored is None else scored, places.astype(np.uint64))


def test_causal_targets_are_the_next_tokens() -> None:
    tokens = np.array([[11, 12, 13, 14], [15, 16, 0, 0]])
    scored = np.array([[0, 0, 1, 1], [0, 1, 0, 0]], bool)
    batch = Causal(FACTS)(Windows(tokens, np.array([4, 2]), scored, np.arange(2, dtype=np.uint64)), seed=0)
    assert batch["input_ids"].tolist() == [[11, 12, 13], [15, 2, 2]]
    assert batch["targets"].tolist() == [[-100, 13, 14], [16, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_seq2seq_decoders_read_the_start_and_the_targets_without_their_last() -> None:
    windows = Windows(
        np.array([[11, 12], [13, 0]]), np.array([2, 1]), np.zeros((2, 2), bool), np.arange(2, dtype=np.uint64),
        np.array([[21, 0, 0], [22, 23, 24]]), np.array([1, 3]),
    )  # fmt: skip
    batch = Seq2seq(FACTS)(windows, seed=0)
    assert batch["input_ids"].tolist() == [[11, 12], [13, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["decoder_input_ids"].tolist() == [[7, 2, 2], [7, 22, 23]]
    assert batch["targets"].tolist() == [[21, -100, -100], [22, 23, 24]]
    with pytest.raises(UserError, match="decoder_start_token_id"):
        Seq2seq(VocabularyFacts(10))


def test_masking_has_the_published_statistics() -> None:
    tokens = np.random.default_rng(0).integers(0, 1000, (2000, 256))
    batch = Masked(FACTS)(windows_of(tokens), seed=5)
    asked = batch["targets"] != -100
    ordinary = tokens > 3
    assert not (asked & ~ordinary).any()  # never special tokens
    assert abs(asked.sum() / ordinary.sum() - 0.15) < 0.002
    assert np.array_equal(batch["targets"][asked], tokens[asked])
    assert np.array_equal(batch["input_ids"][~asked], tokens[~asked])
    shown = batch["input_ids"][asked]
    assert abs((shown == 3).mean() - 0.8) < 0.005
    kept = (shown == tokens[asked]).mean()
    assert abs(kept - 0.1) < 0.005
    other = shown[(shown != 3) & (shown != tokens[asked])]
    assert abs(len(other) / len(shown) - 0.1) < 0.005 and other.min() > 3  # a random token is no special one
    assert len(np.unique(other)) > 990
    # No position, and no row, is favoured.
    assert (
        abs(asked.mean(0) - 0.15).max() < 0.04
        and abs(np.corrcoef(asked[:, :-1].ravel(), asked[:, 1:].ravel())[0, 1]) < 0.01
    )


def test_shares_are_settings() -> None:
    tokens = np.random.default_rng(0).integers(4, 1000, (200, 256))
    batch = Masked(FACTS, rate=0.4, mask_share=0.0, random_share=1.0)(windows_of(tokens), seed=0)
    asked = batch["targets"] != -100
    assert abs(asked.mean() - 0.4) < 0.01 and (batch["input_ids"] != 3).all()
    with pytest.raises(UserError, match="together at most 1"):
        Masked(FACTS, mask_share=0.8, random_share=0.3)
    with pytest.raises(UserError, match="mask token"):
        Masked(VocabularyFacts(1000))


def test_masks_are_a_function_of_seed_and_place_and_not_of_company() -> None:
    tokens = np.random.default_rng(0).integers(4, 1000, (64, 32))
    masked = Masked(FACTS)
    whole = masked(windows_of(tokens), seed=1)
    some = [40, 3, 17]
    alone = masked(windows_of(tokens[some], np.array(some)), seed=1)
    for name in ("input_ids", "targets"):
        assert np.array_equal(alone[name], whole[name][some])
        assert not np.array_equal(masked(windows_of(tokens), seed=2)[name], whole[name])
        assert not np.array_equal(masked(windows_of(tokens, np.arange(64, 128)), seed=1)[name], whole[name])


def test_whole_words_are_asked_for_together() -> None:
    tokens = np.random.default_rng(0).integers(4, 1000, (1000, 128))
    tokens[:, 60] = 1  # a special token between words
    batch = Masked(FACTS, whole_words=True)(windows_of(tokens), seed=0)
    asked = batch["targets"] != -100
    continues = (tokens[:, 1:] < 500) & (tokens[:, 1:] > 3) & (tokens[:, :-1] > 3)
    assert np.array_equal(asked[:, 1:][continues], asked[:, :-1][continues])
    begins = tokens[:, 1:] >= 500
    assert not np.array_equal(asked[:, 1:][begins], asked[:, :-1][begins])
    assert abs(asked[tokens > 3].mean() - 0.15) < 0.01
    scored = np.random.default_rng(1).random(tokens.shape) < 0.5  # what the window before has scored is not asked again
    assert not (Masked(FACTS, whole_words=True)(windows_of(tokens, scored=scored), 0)["targets"] != -100)[~scored].any()


def test_an_objective_is_a_file_or_an_import_path() -> None:
    assert isinstance(build_objective("masked", {"rate": 0.3}, FACTS), Masked)
    assert isinstance(build_objective("objectives.causal.Causal", {}, FACTS), Causal)
