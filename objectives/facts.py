"""What an objective knows of the vocabulary, and what it must be.

windows, seed -> batch, as arrays; what is drawn by chance depends on (seed, place, position) alone
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from corpus.packing import Windows

NOTHING = -100  # a target where nothing is asked


@dataclass(frozen=True)
class VocabularyFacts:
    """Ids of the special tokens (None: there is none), and what else of the tokenizer targets depend on."""

    vocab_size: int
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    unk_id: int | None = None
    mask_id: int | None = None
    cls_id: int | None = None
    sep_id: int | None = None
    special_ids: tuple[int, ...] = ()
    starts_word: Callable[[], np.ndarray] | None = None  # -> (vocab_size,) bool: tokens that begin a word
    decoder_start_id: int | None = None

    @property
    def filling(self) -> int:
        """The id that fills rows. Masks and targets hide it, so without a pad token any will do."""
        return 0 if self.pad_id is None else self.pad_id


class Objective(Protocol):
    """What is predicted: a class in a file of its own, `objectives/<name>.py`, or anywhere by import path.

    Its arguments are those of `__init__(self, facts, **arguments)`.
    """

    ahead: int  # tokens beyond max_seq_len that it reads
    pairs: bool  # reads a source and a target, not one row of text

    def __call__(self, windows: Windows, seed: int) -> dict[str, np.ndarray]:
        """-> input_ids and targets (B, T) int64, attention_mask (B, T) int64 with 1 at tokens, and what else is needed.

        Rows are filled on the right; `dataset.py` moves them and drops masks that say nothing."""


def filled(tokens: np.ndarray, lengths: np.ndarray, filling: int) -> tuple[np.ndarray, np.ndarray]:
    """tokens (B, T), lengths (B,) -> tokens with `filling` after each row's length; 1 where tokens are, 0 elsewhere"""
    real = np.arange(tokens.shape[1]) < lengths[:, None]
    return np.where(real, tokens, filling), real.astype(np.int64)
