"""Tokens of plain byte-level BPE -> where in the text each ends, from the number of bytes that each stands for."""

from typing import Any

import numpy as np


def trims_offsets(description: dict[str, Any]) -> bool:
    """Whether the places of tokens leave out the spaces around words, which tells nothing of their bytes."""
    processor = description.get("post_processor") or {}
    each = processor.get("processors", [processor])
    return any(one.get("trim_offsets", one.get("type") in ("ByteLevel", "RobertaProcessing")) for one in each)


def byte_lengths(vocabulary: dict[str, int], vocab_size: int) -> np.ndarray:
    """(vocab_size,) int64: how many bytes of a text each token stands for."""
    lengths = np.zeros(vocab_size, np.int64)
    for token, index in vocabulary.items():
        lengths[index] = len(token)
    return lengths


def ends_in_bytes(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """-> (T,) where in its text each token ends. tokens: (T,) bytes of each; lengths: (N,) tokens of each text."""
    ends = np.concatenate(([0], np.cumsum(tokens)))
    return ends[1:] - np.repeat(ends[np.cumsum(lengths) - lengths], lengths)


def in_characters(ends: np.ndarray, text: str) -> np.ndarray | None:
    """The place after the last character that each token of a text has part in.

    ends: (T,) in bytes; -> (T,) in characters; None where the tokens stand for other bytes than the text has.
    """
    n_bytes = int(ends[-1]) if len(ends) else 0
    if text.isascii():
        return ends if n_bytes == len(text) else None
    raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    if n_bytes != len(raw):
        return None
    begun = np.cumsum((raw & 0xC0) != 0x80)  # characters that have begun, up to and with each byte
    return begun[ends - 1]
