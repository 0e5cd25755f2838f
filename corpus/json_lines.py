"""Lines of JSON -> rows one by one; or, of many lines that follow one another, columns of text.

What a line says is what `json` makes of it. msgspec, an extra of requirements-fast.txt, is several times as fast and
stricter, so what it refuses is read by `json`; and of fields that nobody wants it makes nothing.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

try:
    import msgspec
except ImportError:
    msgspec = None

from corpus.files import Row
from tokenizer.batches import places_of_few

_NEWLINE, _OPENING, _CLOSING, _ASCII = ord("\n"), ord("{"), ord("}"), 128


def json_row(raw: bytes | None, where: str = "", is_first: bool = False) -> Row | None:
    """The row of a line of JSON; None where the line is blank. raw: None for one that is too long. is_first: of its
    file."""
    if raw is None:
        return Row(where, None, "too long")
    try:
        record = _parsed(raw)
    except UnicodeDecodeError as problem:
        return Row(where, None, "not UTF-8", f"byte {raw[problem.start]:#04x}")
    except (ValueError, RecursionError) as problem:
        if not raw.strip():
            return None
        array = is_first and raw.lstrip().startswith(b"[")
        advice = "; the file is one array: write an object a line" if array else ""
        return Row(where, None, "not JSON", f"{problem}{advice}")
    if isinstance(record, dict):
        return Row(where, record)
    return Row(where, None, "not JSON", f"a line is an object, not {type(record).__name__}")


def json_texts(lines: Sequence[bytes | None], names: Sequence[str]) -> list[list[Any]]:
    """Lines of JSON -> for each name what each record has of it, if that is text; else anything: see json_row."""
    pick = itemgetter(*names)
    values: list[Any] = []
    add = values.append
    for line in lines:
        try:
            add(pick(_parsed(line)))  # type: ignore[arg-type]
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
            add(None)
    if len(names) == 1:
        return [values]
    nothing = (None,) * len(names)
    return [list(column) for column in zip(*(value or nothing for value in values), strict=True)] or [[] for _ in names]


def json_texts_at_once(lines: memoryview, names: Sequence[str], longest: int) -> list[list[Any]] | None:
    """The same of lines that follow one another; None where one of them is anything but an object with these texts, or
    has more than `longest` bytes."""
    decoder = None if msgspec is None else _decoder(tuple(dict.fromkeys(names)))
    letters = np.frombuffer(lines, np.uint8)
    ends = places_of_few(letters == _NEWLINE)
    if decoder is None or not len(ends) or ends[-1] != len(letters) - 1:
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() > longest:
        return None
    # msgspec takes newlines for any other space, between objects and in them. But inside an object no brace that opens
    # follows one that closes: where each line begins with the one and ends with the other, no object goes on from line
    # to line, and as many objects as lines are one each.
    if np.any(letters[starts] != _OPENING) or np.any(letters[ends - 1] != _CLOSING):
        return None
    try:
        if letters.max() >= _ASCII:  # msgspec does not check the UTF-8 of fields that it skips
            for line in np.flatnonzero(np.logical_or.reduceat(letters >= _ASCII, starts)).tolist():
                str(lines[starts[line] : ends[line]], "utf-8")
        records = decoder.decode_lines(lines)
    except (ValueError, RecursionError):
        return None
    if len(records) != len(ends):
        return None
    fields = dict(zip(decoder.type.__struct_encode_fields__, decoder.type.__struct_fields__, strict=True))
    return [list(map(attrgetter(fields[name]), records)) for name in names]


@cache
def _decoder(names: tuple[str, ...]) -> Any:
    """Of objects with at least these fields, all of them text; None where the library does not take a name."""
    fields = {f"field_{i}": name for i, name in enumerate(names)}
    with suppress(ValueError):
        record = msgspec.defstruct("Record", [(field, str) for field in fields], rename=fields, gc=False)
        return msgspec.json.Decoder(record)
    return None


def _parsed(raw: bytes) -> Any:
    """What `json` makes of a line. Raises UnicodeDecodeError, ValueError or RecursionError."""
    if msgspec is not None:
        with suppress(ValueError, RecursionError):
            return msgspec.json.decode(raw)
    return _JSON.decode(raw.decode())


def _whole(digits: str) -> int | float:
    """Python makes no int of more than 4,300 digits, which is no reason to refuse the text beside it."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


_JSON = json.JSONDecoder(parse_int=_whole)
