"""Nested values -> YAML that `yaml_text` reads back as the same values, with a comment beside each key."""

import json
import math
import re
import textwrap
from collections.abc import Callable
from typing import Any

from utils.yaml_text import KeyPath, read_scalar

WIDTH = 120
_COMMENTS_FROM = 34  # the column where comments begin, where keys are shorter
_WIDEST = 62  # a longer line has its comment above


def _nothing(key: KeyPath) -> str:
    return ""


def to_yaml(
    values: dict[str, Any],
    comment: Callable[[KeyPath], str] = _nothing,
    heading: Callable[[KeyPath], str] = _nothing,
) -> str:
    """values: mappings, lists, text, numbers, booleans and None. comment: to stand beside a key, or "". heading: to
    stand above a mapping, or ""."""
    lines: list[str] = []
    _write(values, (), comment, heading, lines)
    return "\n".join(lines).strip("\n") + "\n"


def _write(
    values: dict[Any, Any],
    above: KeyPath,
    comment: Callable[[KeyPath], str],
    heading: Callable[[KeyPath], str],
    lines: list[str],
) -> None:
    indent = "  " * len(above)
    for name, value in values.items():
        key = (*above, name)
        title = heading(key)
        if title:
            lines += [""] * (not above)
            for line in title.splitlines():
                lines += [f"{indent}# {part}" for part in textwrap.wrap(line, WIDTH - len(indent) - 2)]
        if isinstance(value, dict) and value:
            lines += _commented(f"{indent}{_key(name)}:", "" if title else comment(key))
            _write(value, key, comment, heading, lines)
        else:
            lines += _commented(f"{indent}{_key(name)}: {flow(value)}", comment(key))


def _commented(line: str, comment: str) -> list[str]:
    """The line with its comment at its right, wrapped in a column of its own."""
    if not comment:
        return [line]
    if len(line) > _WIDEST:
        indent = " " * (len(line) - len(line.lstrip()))
        return [*(f"{indent}# {part}" for part in textwrap.wrap(comment, WIDTH - len(indent) - 2)), line]
    column = max(_COMMENTS_FROM, len(line) + 2)
    first, *others = textwrap.wrap(comment, WIDTH - column - 2, break_long_words=False) or [""]
    return [f"{line:<{column}}# {first}", *(f"{'':<{column}}# {part}" for part in others)]


def _key(name: Any) -> str:
    return str(name) if isinstance(name, int) else flow(name)


def flow(value: Any) -> str:
    """A value on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)}: {flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(inner) for inner in value) + "]"
    return _text(str(value))


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return re.sub(r"e-0?(\d+)", r"e-\1", text)


def _text(text: str) -> str:
    """Plain where it reads back as the same text, also inside of lists; else in double quotes."""
    if re.fullmatch(r"[A-Za-z0-9_./~$+-]([\w ./~$+=-]*[\w./~$+=-])?", text, flags=re.ASCII) and not text.startswith(
        "- "
    ):
        if read_scalar(text, (), "").values.get("value") == text:
            return text
    return json.dumps(text, ensure_ascii=False)
