"""A function -> a source: what it yields is one unit, read from its start each time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from corpus.files import Row
from corpus.inputs import Source
from utils.hashing import sha256_json


class FunctionSource(Source):
    """What a function yields: one unit, always read from its start."""

    def __init__(self, split: str, records: Iterable[Any], name: str, identity: Any) -> None:
        """records: can be iterated again and again. name: in messages. identity: JSON, other for other records."""
        super().__init__({split: (0.0, 1.0)})
        self.records, self.name, self.identity = records, name, identity

    def unit_bytes(self, unit: int) -> int:
        """Nobody knows."""
        return 0

    def rows(self, unit: int, start: int = 0) -> Iterator[tuple[int, Row]]:
        """Whatever is yielded: dicts, or text for a document of kind text."""
        for number, record in enumerate(self.records):
            if number >= start:
                yield number, self._row(number, record)

    def _row(self, number: int, record: Any) -> Row:
        where = self.where(0, number)
        if isinstance(record, str):
            return Row(where, {"text": record})
        if isinstance(record, dict):
            return Row(where, record)
        return Row(where, None, "not text", f"a function yields dicts or text, not {type(record).__name__}")

    def where(self, unit: int, row: int) -> str:
        """The function and the number of the record."""
        return f"{self.name}:{row + 1}"

    def digest(self, unit: int) -> str:
        """Of the function's name, file and arguments."""
        return sha256_json(self.identity)

    def sizes(self) -> str:
        """The same, as there is nothing to measure."""
        return self.digest(0)


@dataclass(frozen=True)
class Call:
    """A function and its arguments, to be called anew each time that it is iterated. Pickles with them."""

    function: Any
    arguments: tuple
    keywords: dict[str, Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.function(*self.arguments, **self.keywords))
