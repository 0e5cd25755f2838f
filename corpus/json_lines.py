"""Lines of JSON -> rows one by one; or, of many lines that follow one another, columns of text.

What a line says is what `json` makes of it. msgspec, an extra of requirements-fast.txt, is several times as fast and
stricter, so what it refuses is read by `json`; and of fields that nobody wants it makes nothing.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any

try:
    import msgspec
except ImportError:
    msgspec = None

from corpus.files import Row


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
