"""The paths in a config -> absolute ones, with $VARIABLES from the environment and from .env put in."""

import copy
import os
import re
from collections.abc import Callable
from typing import Any

from pydantic.fields import FieldInfo

from configs.expectations import settings
from configs.places import REPOSITORY
from utils.yaml_text import KeyPath, dotted

# Names on the Hub, or places: a $VARIABLE expands, and what is a path is one from the repository.
_NAMES_OR_PATHS = (
    ("dataset", "name"),
    ("tokenizer", "path"),
    ("tokenizer", "retrain"),
    ("model", "pretrained"),
    ("inference", "checkpoint"),
    ("generation", "checkpoint"),
)


def expand_paths(
    values: dict[str, Any], is_bad: Callable[[KeyPath], bool], add: Callable[[KeyPath, str], None]
) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """-> the values with their paths absolute, and each path as it was written.

    is_bad: whether a key has a problem already. add: takes the key and the text of one more.
    """
    variables = {**_dot_env(), **os.environ}
    values = copy.deepcopy(values)
    written: dict[KeyPath, str] = {}

    def absolute(text: str, key: KeyPath) -> str:
        written[key] = text
        return str(REPOSITORY / os.path.expanduser(_expanded(text, key, variables, add)))

    for key, info in settings():
        inner: Any = values
        for name in key[:-1]:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or inner.get(key[-1]) in (None, info.default) or is_bad(key):
            continue  # a default stays as it is: places.py knows where the repository is
        if _is_path(info):
            inner[key[-1]] = _each_text(inner[key[-1]], key, absolute)
        elif key in _NAMES_OR_PATHS and _looks_like_a_path(inner[key[-1]]):
            inner[key[-1]] = absolute(inner[key[-1]], key)
    return values, written


def _is_path(info: FieldInfo) -> bool:
    return "path" in info.metadata or "'path'" in str(info.annotation)


def _each_text(value: Any, key: KeyPath, change: Callable[[str, KeyPath], str]) -> Any:
    if isinstance(value, dict):
        return {name: _each_text(inner, (*key, name), change) for name, inner in value.items()}
    if isinstance(value, list):
        return [_each_text(inner, (*key, index), change) for index, inner in enumerate(value)]
    return change(value, key) if isinstance(value, str) else value


def _looks_like_a_path(text: Any) -> bool:
    if not isinstance(text, str) or not text:
        return False
    return "$" in text or text[0] in "./~" or (REPOSITORY / text).exists() or text.split("/")[0] in ("runs", "data")


def _expanded(text: str, key: KeyPath, variables: dict[str, str], add: Callable[[KeyPath, str], None]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in variables:
            add(key, f"{dotted(key)}: ${name} is not defined; export it, or put {name}=... into .env")
        return variables.get(name, "")

    return re.sub(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))", value, text)


def _dot_env() -> dict[str, str]:
    """NAME=value lines of the git-ignored .env file beside train.py, where there is one."""
    try:
        lines = (REPOSITORY / ".env").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pattern = re.compile(r"""\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*("[^"]*"|'[^']*'|[^#]*?)\s*(?:#.*)?$""")
    matches = [match for match in map(pattern.match, lines) if match]
    return {match[1]: match[2][1:-1] if match[2][:1] in ("'", '"') else match[2] for match in matches}
