"""A batch of texts: how it is encoded (how much at a time, in how many threads), and taken apart again."""

import multiprocessing
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np

# Stands between texts in a row, as a special token of its own. Its first character is nowhere else in it, so it can be
# found in no other place unless a text holds all of it.
SEPARATOR = b"\x00the next document\x01"


class Texts:
    """Some texts, in the form in which they came; whoever asks for another form has it made."""

    def __init__(
        self,
        strings: list[str] | None = None,
        utf8: list[bytes] | None = None,
        joined: bytes | np.ndarray | None = None,
        sizes: np.ndarray | None = None,
    ) -> None:
        """One of three: strings; each text in UTF-8; or all in UTF-8, (N,) uint8, a SEPARATOR after each, and their
        sizes."""
        self._strings, self._utf8, self._joined, self._sizes = strings, utf8, joined, sizes
        self.counts: np.ndarray | None = None  # (texts, 3) int64, once they are measured: see corpus/measuring.py

    def __len__(self) -> int:
        return len(next(form for form in (self._sizes, self._utf8, self._strings) if form is not None))

    @property
    def strings(self) -> list[str]:
        """Each as it is."""
        if self._strings is None:
            self._strings = list(map(bytes.decode, self.utf8))
        return self._strings

    @property
    def utf8(self) -> list[bytes]:
        """Each in UTF-8. Raises UnicodeEncodeError at a lone surrogate."""
        if self._utf8 is None and self._joined is not None:
            letters, (starts, stops) = memoryview(self._joined), self._places
            self._utf8 = [bytes(letters[a:b]) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
        elif self._utf8 is None:
            self._utf8 = list(map(str.encode, self._strings or []))
        return self._utf8

    @property
    def sizes(self) -> np.ndarray:
        """(texts,) int64: bytes of each in UTF-8."""
        if self._sizes is None:
            self._sizes = np.fromiter(map(len, self.utf8), np.int64, len(self))
        return self._sizes

    @property
    def joined(self) -> bytes | np.ndarray:
        """All in UTF-8, a SEPARATOR after each."""
        if self._joined is None:
            self._joined = SEPARATOR.join([*self.utf8, b""])
        return self._joined

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where in `joined` each begins and ends, without its separator."""
        stops = np.cumsum(self.sizes + len(SEPARATOR)) - len(SEPARATOR)
        return stops - self.sizes, stops

    def one(self, number: int) -> bytes:
        """One of them in UTF-8."""
        if self._joined is None:
            return self.utf8[number]
        starts, stops = self._places
        return bytes(memoryview(self._joined)[int(starts[number]) : int(stops[number])])

    def part(self, run: range) -> "Texts":
        """Some that follow one another."""
        sizes = self.sizes[run.start : run.stop]
        if self._joined is None:
            return Texts(utf8=self.utf8[run.start : run.stop], sizes=sizes)
        starts, stops = self._places
        begin, end = int(starts[run.start]), int(stops[run.stop - 1]) + len(SEPARATOR)
        return Texts(joined=bytes(memoryview(self._joined)[begin:end]), sizes=sizes)

    def without(self, numbers: Collection[int]) -> bytes:
        """`joined`, with nothing of some of them but their separators. numbers: increasing"""
        if not numbers:
            return bytes(self.joined)
        letters, (starts, stops) = memoryview(self.joined), self._places
        kept, last = [], 0
        for number in numbers:
            kept.append(letters[last : int(starts[number])])
            last = int(stops[number])
        return b"".join([*kept, letters[last:]])

    def replaced(self, others: dict[int, str]) -> "Texts":
        """With other texts at some places."""
        utf8 = list(self.utf8)
        for i, text in others.items():
            utf8[i] = text.encode()
        return Texts(utf8=utf8)

    def chosen(self, rows: np.ndarray) -> "Texts":
        """Those with these numbers, in their order."""
        if len(rows) == len(self):
            return self
        utf8 = self.utf8
        found = Texts(utf8=[utf8[i] for i in rows.tolist()], sizes=self.sizes[rows])
        found.counts = None if self.counts is None else self.counts[rows]
        return found


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
