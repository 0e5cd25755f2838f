"""The strings of special tokens, kept from being found in a text by Viterbi search or longest match.

`tokenizers` looks every string of a vocabulary up in the text, those of special tokens and of bytes ("<0x41>") too. A
text that holds such a string must be spelled like any other.
"""

import re
from collections.abc import Iterable


def never_best(vocabulary: list[tuple[str, float]], hidden: set[str]) -> list[tuple[str, float]]:
    """A unigram vocabulary (piece, log-probability) in which the pieces `hidden` are always the worst choice.

    This makes <unk>, which scores below the worst piece, worse too. That changes nothing where no text has a choice
    between an unknown character and a known one: where every character of a piece is itself a piece.
    """
    worst = 1000 * min(score for piece, score in vocabulary if piece not in hidden)
    return [(piece, worst if piece in hidden else score) for piece, score in vocabulary]


def has_all_characters(pieces: Iterable[str]) -> bool:
    """Whether every character of the pieces is itself one of them."""
    all_pieces = set(pieces)
    return all(letter in all_pieces for letter in set("".join(all_pieces)))


def cuts(hidden: Iterable[str], characters: set[str] | None = None) -> str | None:
    """A pattern whose matches are where a text is to be cut (after the match), so that no hidden string stays whole.

    characters: those that the vocabulary has; a string of them alone is left whole, as `never_best` does for it, and
    another is cut at a character that it has not, where every segmentation has a border anyway. None: cut all.
    None where there is nothing to cut.
    """
    patterns = []
    for text in sorted(hidden):
        unknown = 0 if characters is None else next((i for i, c in enumerate(text) if c not in characters), None)
        if unknown is not None and len(text) > 1:
            at = max(unknown, 1)
            patterns.append(f"{_escaped(text[:at])}(?={_escaped(text[at:])})")
    return "|".join(patterns) or None


def _escaped(text: str) -> str:
    # Not re.escape, which escapes characters that other engines of regular expressions then take for commands.
    return re.sub(r"([\\.^$|?*+()\[\]{}])", r"\\\1", text)
