"""A batch of texts: how it is encoded (how much at a time, in how many threads), and taken apart again."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np


class Utf8(NamedTuple):
    """Texts in UTF-8, and how long they are, for asking each of many texts again and again takes time."""

    texts: Sequence[bytes]
    sizes: np.ndarray  # (texts,) int64: bytes of each


def utf8_of(texts: Iterable[str]) -> Utf8:
    """Raises UnicodeEncodeError at a lone surrogate."""
    encoded = list(map(str.encode, texts))
    return Utf8(encoded, np.fromiter(map(len, encoded), np.int64, len(encoded)))


def rows(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """(T,) what belongs to several texts in a row, (N,) how much to each -> N arrays."""
    stops = np.cumsum(lengths).tolist()
    return [values[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def places_of_few(mask: np.ndarray) -> np.ndarray:
    """np.flatnonzero of a (N,) bool array, several times as fast where next to nothing is set: eight at a time."""
    whole = len(mask) // 8 * 8
    by_eight = mask[:whole].view(np.uint64)
    eights = np.flatnonzero(by_eight != 0)  # of other types than bool it is slow
    within = np.flatnonzero(by_eight[eights].view(bool))
    return np.concatenate([(eights[within >> 3] << 3) + (within & 7), np.flatnonzero(mask[whole:]) + whole])


def places_of_byte(text: bytes, byte: int) -> np.ndarray:
    """Where a byte stands, (N,) int64: few are found one by one, many all at once."""
    places: list[int] = []
    place = text.find(byte)
    while place >= 0:
        places.append(place)
        if len(places) > len(text) >> 11:
            rest = np.frombuffer(text, np.uint8)[place + 1 :] == byte
            return np.concatenate([np.array(places, np.int64), places_of_few(rest) + (place + 1)])
        place = text.find(byte, place + 1)
    return np.array(places, np.int64)


def slices(texts: Sequence[str], characters: int = 250_000) -> Iterator[list[str]]:
    """The texts, some at a time: what `tokenizers` makes of few stays in the processor's cache."""
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if size >= characters:
            yield some
            some, size = [], 0
    if some:
        yield some


def is_worker() -> bool:
    """Whether this process was started by another: threads of its own would only fight those of its neighbours."""
    return multiprocessing.parent_process() is not None


@contextmanager
def in_one_thread(really: bool) -> Iterator[None]:
    """Keep `tokenizers` from using threads: not only slower in a worker process, but unsafe in one that was forked."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    if really:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if really and before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        elif really and before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before
