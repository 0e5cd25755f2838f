"""Texts -> their UTF-8 bytes, words and lines, counted many at a time."""

from collections.abc import Sequence

import numpy as np

# Beyond ASCII, what str.split() takes for space: U+0085 and U+00A0, and by the first of their three bytes
# U+1680 | U+2000 to 200A, 2028, 2029, 202F, 205F | U+3000.
_TWO_BYTES = 0xC2
_THREE_BYTES = (0xE1, 0xE2, 0xE3)
_OTHER_SPACES = np.zeros(1 << 16, bool)
_OTHER_SPACES[[0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]] = True


def measured(texts: Sequence[str]) -> np.ndarray:
    """-> (texts, 3) int64: UTF-8 bytes, words as `str.split` finds them, and lines.

    A last line without its end is a line too, so an empty text is one empty line.
    """
    encoded = [text.encode() for text in texts]
    letters = np.frombuffer(b"".join(encoded), np.uint8)
    # Space; tab to carriage return; the four separators of ASCII. Differences below zero wrap around.
    is_space = (letters - np.uint8(9) <= 4) | (letters - np.uint8(28) <= 4)
    if not all(map(str.isascii, texts)):
        _mark_other_spaces(letters, is_space)
    begins = ~is_space
    begins[1:] &= is_space[:-1]
    is_end = letters == ord("\n")
    counts, start = [], 0
    for raw in encoded:
        end = start + len(raw)
        if raw:
            begins[start] = not is_space[start]
        words, lines = np.count_nonzero(begins[start:end]), np.count_nonzero(is_end[start:end])
        counts.append((len(raw), words, lines + (not raw or not is_end[end - 1])))
        start = end
    return np.array(counts, np.int64).reshape(-1, 3)


def _mark_other_spaces(letters: np.ndarray, is_space: np.ndarray) -> None:
    """Marks the bytes of spaces beyond ASCII. letters: (N,) of whole characters in UTF-8"""
    places = np.flatnonzero(letters == _TWO_BYTES)
    places = places[_OTHER_SPACES[letters[places + 1]]]  # after C2 the second byte is the code point
    is_space[places] = is_space[places + 1] = True
    for first in _THREE_BYTES:
        places = np.flatnonzero(letters == first)
        if places.size:
            second, third = letters[places + 1].astype(np.uint16), letters[places + 2]
            codes = np.uint16((first & 0x0F) << 12) | (second & 0x3F) << 6 | (third & 0x3F)
            places = places[_OTHER_SPACES[codes]]
            is_space[places] = is_space[places + 1] = is_space[places + 2] = True
