"""Lines or paragraphs that follow one another -> their texts, all at once: by lines.c, where there is a C compiler."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer.batches import SEPARATOR, Texts
from utils.compiled import compiled

SOURCE = Path(__file__).with_suffix(".c")

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64
_OF_PARAGRAPHS = [_POINTER, _SIZE, _POINTER, _POINTER, _POINTER, _SIZE, ctypes.c_char_p, _SIZE]
_OF_LINES = [*_OF_PARAGRAPHS, ctypes.c_char_p, _SIZE]


def number_of_lines(lines: memoryview) -> int:
    """How many there are, one without an end included."""
    data, library = np.frombuffer(lines, np.uint8), compiled(SOURCE)
    if library is None:
        is_end = data == ord("\n")
        return int(np.count_nonzero(is_end)) + bool(len(is_end) and not is_end[-1])
    library.lines.argtypes, library.lines.restype = [_POINTER, _SIZE], _SIZE
    return int(library.lines(data.ctypes.data, len(data)))


def texts_of(lines: memoryview, number: int, longest: int, name: str | None) -> tuple[Texts, np.ndarray] | None:
    """-> what `number` lines say, and which of them, (number,) bool, are to be looked at one by one: they are no such
    text, or longer than `longest` bytes. None where nothing is compiled.

    name: of a field, where the lines are of JSON; None: they are text."""
    library = compiled(SOURCE)
    if library is None:
        return None
    library.texts.argtypes, library.texts.restype = _OF_LINES, None
    field = None if name is None else name.encode(errors="surrogatepass")
    return _texts(library.texts, lines, number, longest, SEPARATOR, len(SEPARATOR), field, len(field or b""))


def texts_of_paragraphs(lines: memoryview, number: int, longest: int) -> tuple[Texts, np.ndarray] | None:
    """The same of `number` paragraphs: what stands between blank lines."""
    count = _paragraphs()
    return None if count is None else _texts(count, lines, number, longest, SEPARATOR, len(SEPARATOR))


def number_of_paragraphs(lines: memoryview, longest: int) -> int | None:
    """How many paragraphs there are. None where nothing is compiled."""
    count, data = _paragraphs(), np.frombuffer(lines, np.uint8)
    return None if count is None else int(count(data.ctypes.data, len(data), None, None, None, longest, None, 0))


def _paragraphs() -> Any:
    library = compiled(SOURCE)
    if library is None:
        return None
    library.paragraphs.argtypes, library.paragraphs.restype = _OF_PARAGRAPHS, _SIZE
    return library.paragraphs


def _texts(read: Callable[..., Any], lines: memoryview, number: int, *more: Any) -> tuple[Texts, np.ndarray]:
    data = np.frombuffer(lines, np.uint8)
    joined = np.empty(len(data) + number * len(SEPARATOR), np.uint8)
    sizes, is_odd = np.empty(number, np.int64), np.empty(number, bool)
    read(data.ctypes.data, len(data), joined.ctypes.data, sizes.ctypes.data, is_odd.ctypes.data, *more)
    written = int(sizes.sum()) + number * len(SEPARATOR)
    return Texts(joined=joined[:written], sizes=sizes), is_odd
