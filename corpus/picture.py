"""A window and what is asked of a model in it -> text to be read, with marks, and with colours on a terminal.

    ‖          another document begins              ‹…›          not scored
    [a → b]    where b stands, the model sees a     ⋯ 12 places  nothing: filling

Marks stand in both cases, so that a log says the same as a terminal.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.text import Text

COLOURS = ("green", "cyan")  # of documents, in turn
LEGEND = (
    ("‖", "bold yellow", " another document begins   "),
    ("‹…›", "dim", " not scored   "),
    ("[a → b]", "bold red", " sees a, is to say b   "),
    ("⋯", "dim", " filling"),
)
# What a terminal would obey is shown by its picture: escape, bell, carriage return …
UNSEEN = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "␡"}

Decode = Callable[[list[int]], str]


@dataclass
class Row:
    """One side of a window: T places, of which `length` hold tokens."""

    ids: np.ndarray  # (T,) what is there
    length: int
    scored: np.ndarray  # (T,) bool: the token that stands here is asked for somewhere
    documents: np.ndarray  # (T,) number of the document
    seen: np.ndarray | None = None  # (T,) what the model sees, where that is something else


def legend() -> Text:
    """What the marks mean."""
    return Text.assemble(*(part for mark, style, said in LEGEND for part in ((mark, style), (said, "dim"))))


def picture(row: Row, decode: Decode) -> Text:
    """Decoded, marked and coloured."""
    text = Text()
    n = row.length
    scored, documents = row.scored[:n], row.documents[:n]
    hidden = np.zeros(n, bool) if row.seen is None else row.seen[:n] != row.ids[:n]
    # Runs of places that look the same; each hidden token by itself.
    changes = (np.diff(scored.astype(np.int8)) != 0) | (np.diff(documents) != 0) | hidden[1:] | hidden[:-1]
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), n] if n else []
    for first, last in zip(edges, edges[1:], strict=False):
        if first and documents[first] != documents[first - 1]:
            text.append("‖", "bold yellow")
        said = between(row.ids[:n].tolist(), first, last, decode)
        colour = COLOURS[int(documents[first]) % len(COLOURS)]
        if hidden[first]:
            shown = decode([int(row.seen[first])]) if row.seen is not None else ""
            text.append(f"[{plain(shown)} → {said}]", "bold red")
        elif scored[first]:
            text.append(said, colour)
        else:
            text.append(f"‹{said}›", "dim")
    if n < len(row.ids):
        text.append(f"⋯ {len(row.ids) - n:,} places", "dim")
    return text


def between(ids: list[int], first: int, last: int, decode: Decode) -> str:
    """What some tokens say after those before them: with the space that decoding drops at a beginning."""
    before, whole = decode(ids[max(0, first - 8) : first]), decode(ids[max(0, first - 8) : last])
    return plain(whole[len(before) :] if before and whole.startswith(before) else decode(ids[first:last]))


def plain(text: str) -> str:
    """Without characters that a terminal obeys."""
    return text.translate(UNSEEN)


def positions(row: Row, seen: np.ndarray, targets: np.ndarray, decode: Decode, most: int) -> list[tuple[str, str]]:
    """The first places of a row, one by one: what the model sees there, and what it is asked. Both (T,)"""
    lines = []
    for t in range(min(most, row.length, len(seen))):
        asked = f"{decode([int(targets[t])])!r} ({targets[t]})" if targets[t] >= 0 else "—"
        lines.append((f"{t}", f"document {row.documents[t]}   {decode([int(seen[t])])!r} ({seen[t]}) → {asked}"))
    return lines
