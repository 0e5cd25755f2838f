"""The code points that gigatoken and `tokenizers` do not take for the same kind of character, and how they are found.

The table holds for one pair of versions: `ranges` of what `search` finds. A document that holds one of these code
points is left to `tokenizers`.
"""

import ctypes
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer.batches import SEPARATOR, Texts, places_of_byte
from tokenizer.byte_level import SPELLED_OUT, letters, pre_tokeniser
from utils.compiled import compiled

SOURCE = Path(__file__).with_suffix(".c")

# Of the distributions "tokenizers" and "gigatoken".
VERSIONS = ("0.23.3", "0.10.0")
RANGES = (
    "88f c5c cdc 1acf-1add 1ae0-1aeb a7ce-a7cf a7d2 a7d4 a7f1 10940-10959 10ec5-10ec7 10efa-10efb 11b60-11b67 "
    "11db0-11ddb 11de0-11de9 16ea0-16eb8 16ebb-16ed3 16ff2-16ff6 187f8-187ff 18d09-18d1e 18d80-18df2 1e6c0-1e6de "
    "1e6e0-1e6f5 1e6fe-1e6ff 2b73a-2b73f 2cea2-2cead 323b0-33479"
)
LAST = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)  # halves of UTF-16: no text in UTF-8 has them, and both libraries refuse them

# Characters of every kind that the patterns tell apart, to stand beside the one that is looked at.
_AROUND = "aA1 !\n'é"
_BORDER = "一"


def table() -> np.ndarray:
    """(0x110000,) bool: code points that are left to `tokenizers`."""
    found = np.zeros(LAST + 1, bool)
    found[SURROGATES.start : SURROGATES.stop] = True
    for one in RANGES.split():
        first, _, last = one.partition("-")
        found[int(first, 16) : int(last or first, 16) + 1] = True
    return found


class Finder:
    """Texts -> which of them hold a code point of a table: by differing.c, or without it by NumPy."""

    def __init__(self, found: np.ndarray) -> None:
        """found: (0x110000,) bool. Each of its code points has three bytes or four in UTF-8."""
        self.found = found.copy()
        self.found[SURROGATES.start : SURROGATES.stop] = False  # not to be met in UTF-8

    @cached_property
    def beginnings(self) -> np.ndarray:
        """By the first two bytes of UTF-8, (65536,) bool: those with which a code point begins."""
        beginnings = np.zeros(1 << 16, bool)
        for code in np.flatnonzero(self.found).tolist():
            first, second, _, *_ = chr(code).encode()
            beginnings[first << 8 | second] = True
        return beginnings

    def holding(self, texts: Texts) -> list[int]:
        """Numbers of the texts that hold one, in order."""
        library = compiled(SOURCE)
        if library is None:
            return self._by_beginnings(bytes(texts.joined), texts.sizes)
        library.holding.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2 + [ctypes.c_void_p] * 2
        library.holding.restype = ctypes.c_int64
        holds = np.empty(len(texts), bool)
        joined, sizes = np.frombuffer(texts.joined, np.uint8), np.ascontiguousarray(texts.sizes)
        table = self.found.ctypes.data
        library.holding(joined.ctypes.data, sizes.ctypes.data, len(texts), len(SEPARATOR), table, holds.ctypes.data)
        return np.flatnonzero(holds).tolist()

    def _by_beginnings(self, joined: bytes, sizes: np.ndarray) -> list[int]:
        letters = np.frombuffer(joined, np.uint8)
        suspect = []
        # Of first bytes there are few, and in most languages they are rare.
        for first in np.unique(np.flatnonzero(self.beginnings) >> 8).tolist():
            if len(places := places_of_byte(joined, first)):
                suspect.append(places[self.beginnings[first << 8 | letters[places + 1].astype(np.uint16)]])
        if not any(map(len, suspect)):
            return []
        places = np.concatenate(suspect)
        places = places[self.found[code_points(letters, places)]]
        return np.unique(np.searchsorted(np.cumsum(sizes + len(SEPARATOR)), places, "right")).tolist()

    def in_text(self, text: bytes) -> bool:
        """Whether a text in UTF-8 holds one."""
        return bool(self.found[np.frombuffer(text.decode().encode("utf-32-le"), np.uint32)].any())


def code_points(letters: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The code points, of three bytes or four, that begin at some places of a text in UTF-8. At least one byte follows
    each. letters: (N,) uint8. places: (P,) -> (P,) uint32"""
    first, *more = (letters[places + i].astype(np.uint32) for i in range(4))
    second, third, fourth = (byte & 0x3F for byte in more)
    of_three = (first & 0x0F) << 12 | second << 6 | third
    return np.where(first < 0xF0, of_three, (first & 0x07) << 18 | second << 12 | third << 6 | fourth)


def worth_looking_at() -> Iterator[int]:
    """The code points that may differ: all of the planes that hold characters, and some of those that hold none."""
    yield from range(0x80, 0x40000)
    yield from range(0xE0000, 0xE1000)
    yield from (code for code in range(0x40000, LAST + 1, 61) if not 0xE0000 <= code < 0xE1000)


def search(codes: Iterable[int], batch: int = 5000) -> Iterator[list[int]]:
    """Cut texts around each code point by both libraries -> those that are cut differently, a batch at a time.

    Each is put between characters of other kinds and next to itself, in a vocabulary where every border between two
    characters shows in the ids.
    """
    import gigatoken
    from tokenizers import Tokenizer as Pipeline

    contents = [json.dumps(_showing_borders(pattern)) for pattern in (None, *SPELLED_OUT)]
    wanted = [code for code in codes if code not in SURROGATES]
    for low in range(0, len(wanted), batch):
        part = wanted[low : low + batch]
        texts = [_sample(chr(code)) for code in part]
        differing = np.zeros(len(part), bool)
        for content in contents:  # made anew each time: gigatoken keeps all words, and here all are new
            fast, own = gigatoken.Tokenizer.from_json(content), Pipeline.from_str(content)
            layout: Any = fast.encode_batch(texts, parallel=False).layout
            ids, offsets = layout.content.data, layout.offsets.data
            for i, encoding in enumerate(own.encode_batch_fast(texts, add_special_tokens=False)):
                differing[i] |= not np.array_equal(ids[offsets[i] : offsets[i + 1]], encoding.ids)
        yield [part[i] for i in np.flatnonzero(differing)]


def ranges(codes: Iterable[int]) -> str:
    """Code points in order -> "88f c5c-c5e", as the table writes them."""
    runs: list[list[int]] = []
    for code in codes:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return " ".join(f"{first:x}" if first == last else f"{first:x}-{last:x}" for first, last in runs)


def _sample(character: str) -> str:
    between = [f"{before}{character}{after}{_BORDER}" for before in _AROUND for after in _AROUND]
    apostrophes = f"'{character}a{_BORDER}'l{character}e{_BORDER}'{character}{character}a{character}'s{character}"
    return "".join(between) + apostrophes + character * 4 + _BORDER + character


def _showing_borders(pattern: str | None) -> dict[str, Any]:
    """A tokenizer.json that merges the last byte of a character with the first of the next, wherever no cut is."""
    alphabet = letters()
    first, last = range(0xC2, 0xF5), range(0x80, 0xC0)
    beside = [byte for byte in _AROUND.encode() if byte < 0x80]
    merges = [(x, y) for x in beside for y in first] + [(x, y) for x in last for y in (*beside, *first)]
    pairs = [[alphabet[x], alphabet[y]] for x, y in merges]
    vocabulary = {letter: index for index, letter in enumerate([*alphabet, *("".join(pair) for pair in pairs)])}
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": pre_tokeniser(pattern),
        "model": {"type": "BPE", "vocab": vocabulary, "merges": pairs},
    }
