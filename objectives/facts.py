"""What an objective knows of the vocabulary, and what it must be.

windows, seed -> batch, as arrays; what is drawn by chance depends on (seed, place, position) alone
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from corpus.packing import Windows
from utils.messages import UserError

NOTHING = -100  # a target where nothing is asked
NO_DOCUMENT = -1  # in `documents`, what only fills a row: it neither sees a document nor is seen by one


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
    `by_row = True` on it says that each row follows from its own window alone and is as wide, whatever the others are:
    then the windows of many steps are given to it at once, which is faster.
    """

    ahead: int  # tokens beyond max_seq_len that it reads
    pairs: bool  # reads a source and a target, not one row of text

    def __call__(self, windows: Windows, seed: int) -> dict[str, np.ndarray]:
        """-> input_ids and targets (B, T) int64, attention_mask (B, T) int64 with 1 at tokens, and what else is needed.

        Rows are filled on the right; `dataset.py` moves them and drops masks that say nothing. Where windows have
        `documents`, the batch has them too, as `documents_at` gives them: `documents` of input_ids and, where there is
        a decoder, `decoder_documents` of decoder_input_ids. Positions follow from them."""


def filled(tokens: np.ndarray, lengths: np.ndarray, filling: int) -> tuple[np.ndarray, np.ndarray]:
    """tokens (B, T), lengths (B,) -> tokens with `filling` after each row's length; 1 where tokens are, 0 elsewhere"""
    if lengths.min(initial=tokens.shape[1]) == tokens.shape[1]:  # nothing to fill, as nearly always: no work
        return tokens, np.broadcast_to(np.int64(1), tokens.shape)
    real = np.arange(tokens.shape[1]) < lengths[:, None]
    return np.where(real, tokens, filling), real.astype(np.int64)


def documents_at(documents: np.ndarray, real: np.ndarray) -> np.ndarray:
    """documents, real (B, T) -> which of the row's documents each place belongs to, NO_DOCUMENT where it is filled"""
    filled_nowhere = real.strides == (0, 0)  # a single 1, seen from every place
    return documents if filled_nowhere else np.where(real == 1, documents, NO_DOCUMENT)


def first_places(documents: np.ndarray) -> np.ndarray:
    """(B, T) -> True at the first place of each of a row's documents"""
    first = np.ones(documents.shape, bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return first


def kept_apart(arrays: dict[str, np.ndarray], objective: str) -> dict[str, np.ndarray]:
    """A batch with `documents`, which say what is filled as well: positions that restart, and no mask of padding.

    Raises UserError where the objective does not say which documents its rows hold."""
    if "documents" not in arrays or ("decoder_input_ids" in arrays and "decoder_documents" not in arrays):
        raise UserError(
            f"data.document_masking: objective {objective} does not say which document each place of its rows belongs "
            "to; see Objective in objectives/facts.py"
        )
    arrays = {name: values for name, values in arrays.items() if name != "attention_mask"}
    for side in ("", "decoder_"):
        if f"{side}documents" in arrays:
            arrays[f"{side}position_ids"] = positions_within(arrays[f"{side}documents"])
    return arrays


def positions_within(documents: np.ndarray) -> np.ndarray:
    """Numbers of documents (B, T) -> the position of each place in its own document, from 0."""
    starts, n = np.flatnonzero(first_places(documents)), documents.size  # of rows end to end
    return (np.arange(n) - np.repeat(starts, np.diff(starts, append=n))).reshape(documents.shape)
