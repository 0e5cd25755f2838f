"""Texts -> their UTF-8 bytes, words and lines: counted by measuring.c, or without it by NumPy, many at a time.

Then where words begin and where lines end is a bit for each byte of all texts in a row, made a block at a time, so that
what is in between stays in the processor's cache; the counts of a text are those up to its end less those up to its
start.
"""

import ctypes
from pathlib import Path

import numpy as np

from tokenizer.batches import SEPARATOR, Texts, places_of_byte
from utils.compiled import compiled

SOURCE = Path(__file__).with_suffix(".c")
BLOCK = 1 << 18  # bytes; a multiple of 64
_NEWLINE = ord("\n")
_ONE = np.uint64(1)
_LAST = np.uint64(63)

# What str.split() takes for space beyond ASCII: these bytes after C2; and of three bytes, by them as a number less
# E10000, those that are marked.
_TWO_BYTES = 0xC2
_SECOND = np.isin(np.arange(256), [0x85, 0xA0])
_THREE_BYTES = (0xE1, 0xE2, 0xE3)
_OTHERS = np.zeros(3 << 16, bool)
for _space in (0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000):
    _OTHERS[int.from_bytes(chr(_space).encode()) - (_THREE_BYTES[0] << 16)] = True


def measured(texts: Texts) -> np.ndarray:
    """-> (texts, 3) int64: bytes, words as `str.split` finds them, and lines.

    A last line without its end is a line too, so an empty text is one empty line. What was counted once is kept.
    """
    if texts.counts is None:
        library = compiled(SOURCE)
        counts = _counted_by_bits(texts) if library is None else _counted(library, texts)
        texts.counts = np.column_stack([texts.sizes, counts])
    return texts.counts


def _counted(library: ctypes.CDLL, texts: Texts) -> np.ndarray:
    """-> (texts, 2) int64: words and lines"""
    library.count.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    library.count.restype = None
    counts = np.empty((len(texts), 2), np.int64)
    joined, sizes = np.frombuffer(texts.joined, np.uint8), np.ascontiguousarray(texts.sizes)
    library.count(joined.ctypes.data, sizes.ctypes.data, len(texts), len(SEPARATOR), counts.ctypes.data)
    return counts


def _counted_by_bits(texts: Texts) -> np.ndarray:
    """-> (texts, 2) int64: words and lines"""
    joined = b"\n".join([*texts.utf8, b""])  # a space, so that each text begins a word of its own
    letters = np.frombuffer(joined, np.uint8)
    space, newline = _bits(joined, letters)
    before = space << _ONE  # whether the byte before is one
    before[1:] |= space[:-1] >> _LAST
    before[:1] |= _ONE
    sizes = texts.sizes
    ends = np.cumsum(sizes + 1) - 1
    words, lines = (_set_between(bits, ends - sizes, ends) for bits in (before & ~space, newline))
    is_open = np.ones(len(sizes), bool)
    is_open[sizes > 0] = letters[ends[sizes > 0] - 1] != _NEWLINE
    return np.stack([words, lines + is_open], 1)


def _bits(joined: bytes, letters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> whether each byte is (part of) a space, and whether it is a newline: 64 bits in each uint64, one at least."""
    packed = np.zeros((2, len(letters) // 64 + 1), np.uint64)
    space, newline = packed.view(np.uint8)
    less, is_space, also = np.empty(BLOCK, np.uint8), np.empty(BLOCK, bool), np.empty(BLOCK, bool)
    for start in range(0, len(letters), BLOCK):
        block = letters[start : start + BLOCK]
        less, is_space, also = less[: len(block)], is_space[: len(block)], also[: len(block)]
        # Tab to carriage return; the four separators of ASCII, and the space. Differences below zero wrap around.
        np.less_equal(np.subtract(block, 9, out=less), 4, out=is_space)
        np.less_equal(np.subtract(block, 28, out=less), 4, out=also)
        np.logical_or(is_space, also, out=is_space)
        into = slice(start // 8, start // 8 + -(-len(block) // 8))
        space[into] = np.packbits(is_space, bitorder="little")
        newline[into] = np.packbits(np.equal(block, _NEWLINE, out=also), bitorder="little")
    if not joined.isascii():
        others = _other_spaces(joined, letters)
        np.bitwise_or.at(packed[0], others >> 6, _ONE << (others & 63).astype(np.uint64))
    return packed[0], packed[1]


def _other_spaces(joined: bytes, letters: np.ndarray) -> np.ndarray:
    """Places of all bytes of spaces beyond ASCII. joined, letters: (N,) whole characters in UTF-8, and one of ASCII."""
    places = places_of_byte(joined, _TWO_BYTES)
    places = places[_SECOND[letters[places + 1]]]
    found = [places, places + 1]
    for first in _THREE_BYTES:
        places = places_of_byte(joined, first)
        codes = ((first - _THREE_BYTES[0]) << 8 | letters[places + 1].astype(np.int32)) << 8 | letters[places + 2]
        places = places[_OTHERS[codes]]
        found += [places, places + 1, places + 2]
    return np.concatenate(found)


def _set_between(bits: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(P,) how many bits are set from each start up to its end."""
    counts = np.zeros(len(bits), np.int64)
    np.cumsum(np.bitwise_count(bits[:-1]), out=counts[1:])
    places = np.stack([starts, ends])
    number, bit = places >> 6, (places & 63).astype(np.uint64)
    before = counts[number] + np.bitwise_count(bits[number] & ((_ONE << bit) - _ONE))
    return before[1] - before[0]
