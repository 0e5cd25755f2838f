"""A record of the data -> the fields of a document, by the names and templates of `dataset.fields`."""

import string
from collections.abc import Mapping
from typing import Any

from configs.schema import Config
from utils.imports import did_you_mean
from utils.messages import UserError

OF_KIND = {
    "text": ("text",),
    "prompt_response": ("prompt", "response"),
    "messages": ("messages",),
    "pairs": ("source", "target"),
}
# The field whose emptiness makes a document empty. A prompt may be: there is still a response to learn.
NEEDED = {"text": ("text",), "prompt_response": ("response",), "messages": ("messages",), "pairs": ("source", "target")}


class BadRecord(Exception):
    """A record that gives no document: what is counted, and what is said beside it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def field_names(config: Config) -> tuple[str, ...]:
    """The fields of a document. Where a separator makes prompt and response of a text, that is the text."""
    by_separator = config.dataset.kind == "prompt_response" and config.tokenize.separator is not None
    return ("text",) if by_separator else OF_KIND[config.dataset.kind]


class Fields:
    """Records -> fields of documents."""

    def __init__(self, config: Config) -> None:
        """Raises UserError where dataset.fields names a field that the kind does not have."""
        self.names = field_names(config)
        self.needed = self.names if self.names == ("text",) else NEEDED[config.dataset.kind]
        for name in config.dataset.fields:
            if name not in self.names:
                raise UserError(
                    f"dataset.fields: a document of kind {config.dataset.kind} has no '{name}'"
                    f"{did_you_mean(name, self.names) or '; it has ' + ', '.join(self.names)}"
                )
        self.sources = {name: config.dataset.fields.get(name, name) for name in self.names}
        is_plain = "messages" not in self.names and not any("{" in source for source in self.sources.values())
        # The columns that fields of text stand in as they are; None where one has to be put together.
        self.columns = list(self.sources.values()) if is_plain else None

    def of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a document. Raises BadRecord where the record lacks one, or it is not of the right type."""
        return {name: self._value(name, source, record) for name, source in self.sources.items()}

    def is_empty(self, fields: Mapping[str, Any]) -> bool:
        """Whether there is nothing to learn in a document."""
        return any(
            not (value.strip() if isinstance(value, str) else value) for value in (fields[n] for n in self.needed)
        )

    def _value(self, name: str, source: str, record: Mapping[str, Any]) -> Any:
        if name == "messages":
            return _messages(_look_up(record, source))
        if "{" in source:
            return fill(source, record)
        return _as_text(source, _look_up(record, source))


def fill(template: str, record: Mapping[str, Any]) -> str:
    """'{instruction}\\n{input}' with the record's fields put in; a null field is empty text.

    A \\n or \\t written out in the template (as single quotes of YAML leave it) is a newline or a tab; {{ is a brace.
    Raises BadRecord where the record lacks a field, UserError where the template itself is wrong.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as problem:
        raise UserError(
            f"the template {template!r} cannot be read: {problem}; a brace of the text is written {{{{"
        ) from None
    text = ""
    for literal, name, _, _ in parts:
        text += literal.replace("\\n", "\n").replace("\\t", "\t")
        if name is not None:
            value = _look_up(record, name)
            text += "" if value is None else _as_text(name, value)
    return text


def _look_up(record: Mapping[str, Any], name: str) -> Any:
    """A field by its name; 'answer.text' is the field text within the field answer."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            has = ", ".join(map(str, record)) or "nothing"
            raise BadRecord("no such field", f"'{name}'; the record has {has}: set dataset.fields")
        value = value[part]
    return value


def _as_text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    if value is None:
        raise BadRecord("no such field", f"'{name}' is null")
    raise BadRecord("not text", f"'{name}' is of type {type(value).__name__}")


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise BadRecord("not text", f"messages are a list of {{role, content}}, not {type(value).__name__}")
    for turn in value:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("role"), str)
            or not isinstance(turn.get("content"), str)
        ):
            raise BadRecord("not text", f"a message is {{role, content}}, both text, not {str(turn)[:60]}")
    return value


def texts_of(fields: Mapping[str, Any]) -> list[str]:
    """All text of a document, by field; of a chat the contents."""
    texts: list[str] = []
    for value in fields.values():
        texts += [value] if isinstance(value, str) else [turn["content"] for turn in value]
    return texts
