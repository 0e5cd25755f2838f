"""Lines or paragraphs that follow one another -> their texts, all at once: by lines.c, where there is a C compiler."""

import ctypes
from pathlib import Path

import numpy as np

from tokenizer.batches import SEPARATOR, Texts
from utils.compiled import compiled

SOURCE = Path(__file__).with_suffix(".c")
_ARGUMENTS = [
    *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64, ctypes.c_char_p),
    *(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
]
_OF_PARAGRAPHS = [*_ARGUMENTS[:3], *_ARGUMENTS[5:]]


def texts_of(lines: memoryview, number: int, longest: int, name: str | None) -> tuple[Texts, np.ndarray] | None:
    """-> what `number` lines say, and which of them, (number,) bool, are to be looked at one by one: they are no such
    text, or longer than `longest` bytes. None where nothing is compiled.

    name: of a field, where the lines are of JSON; None: they are text."""
    library = compiled(SOURCE)
    if library is None:
        return None
    library.texts.argtypes, library.texts.restype = _ARGUMENTS, ctypes.c_int64
    data = np.frombuffer(lines, np.uint8)
    joined = np.empty(len(data) + number * len(SEPARATOR), np.uint8)
    sizes, is_odd = np.empty(number, np.int64), np.empty(number, bool)
    field = None if name is None else name.encode(errors="surrogatepass")
    written = library.texts(
        data.ctypes.data, len(data), longest, field, len(field or b""), SEPARATOR, len(SEPARATOR), joined.ctypes.data,
        sizes.ctypes.data, is_odd.ctypes.data,
    )  # fmt: skip
    return Texts(joined=joined[:written], sizes=sizes), is_odd


def number_of_paragraphs(lines: memoryview) -> int | None:
    """How many times lines that are not blank begin, after blank ones or at the start. None where nothing is
    compiled."""
    library = compiled(SOURCE)
    if library is None:
        return None
    library.paragraphs.argtypes, library.paragraphs.restype = _OF_PARAGRAPHS, ctypes.c_int64
    data = np.frombuffer(lines, np.uint8)
    return int(library.paragraphs(data.ctypes.data, len(data), 0, None, 0, None, None, None))


def texts_of_paragraphs(lines: memoryview, number: int, longest: int) -> tuple[Texts, np.ndarray] | None:
    """The same as `texts_of`, of `number` paragraphs: what stands between blank lines."""
    library = compiled(SOURCE)
    if library is None:
        return None
    library.paragraphs.argtypes, library.paragraphs.restype = _OF_PARAGRAPHS, ctypes.c_int64
    data = np.frombuffer(lines, np.uint8)
    joined = np.empty(len(data) + number * len(SEPARATOR), np.uint8)
    sizes, is_odd = np.empty(number, np.int64), np.empty(number, bool)
    library.paragraphs(
        data.ctypes.data, len(data), longest, SEPARATOR, len(SEPARATOR), joined.ctypes.data, sizes.ctypes.data,
        is_odd.ctypes.data,
    )  # fmt: skip
    written = int(sizes.sum()) + number * len(SEPARATOR)
    return Texts(joined=joined[:written], sizes=sizes), is_odd
