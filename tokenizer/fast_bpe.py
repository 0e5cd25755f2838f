"""Texts -> their ids by gigatoken, tens of times as fast as `tokenizers`, where the two are known to give the same.

gigatoken is optional (requirements-fast.txt), and it is trusted only this far: the tokenizer is plain byte-level BPE
(byte_level.py); the versions are those that were compared; texts with strings that the tokenizer looks for, or that a
normaliser would change, and what stands around code points that the two see differently go to the tokenizer's own
engine. And it is watched: a fixed set of odd texts and the first documents are compared at start, one document in a
thousand after that.
"""

import importlib.metadata
import json
import mmap
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tokenizer import byte_level, differing
from tokenizer.batches import SEPARATOR, Texts, places_of_few, rows
from utils import memory
from utils.messages import UserError

FIRST = 10  # documents that are compared at start
EVERY = 1000  # one document of so many is compared after that
# Characters of a document that are compared: `tokenizers` needs 95 bytes of memory for each, and takes a hundred times
# as long, so that one document in a thousand, compared whole, would cost a tenth of encoding all.
COMPARED = 300
# gigatoken keeps every word it has seen, without bound. It is built anew when memory has grown by so much since so many
# tokens (by when all else that a process needs is there, and building, 0.15 s, has paid); where memory cannot be
# measured, after so many: random words, the worst case, take 20 bytes a token, code and prose under 1.
MOST_GROWTH = 24 << 20
SETTLED, MOST_TOKENS_UNMEASURED = 3_000_000, 6_000_000
RUN_BYTES = 1 << 20  # of texts that are encoded at once
# Strings that the tokenizer finds in texts are looked for one by one.
MOST_STRINGS = 16

# By twos they are the fixed set of odd texts.
PIECES = (
    *(" ", "  ", "    ", "\n", "\r\n", "\n\n", "\t", "\x0b", "\x00", "\x01", "\x7f", "\x85"),
    *("\u00a0", "\u2009", "\u2028", "\u3000", "\u200b", "\ufeff", "\ufffd", "\U000e0001"),
    *"a A the ING ' 's 'S 'll 'LL 're '\u017f \u2019s . ... , !? - _ / // = <| <s> <|endoftext|> $ € ~".split(),
    *"1 1234 ½ Ⅷ ² é e\u0301 \u0301 ß İ ǅ \u212a ª ʰ 漢字 かな 한국 \U0001d518 🤗 👩\u200d👩 🇩🇪".split(),
    *"\u0663 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u0639\u0631\u0628 \u05e2\u05b4".split(),
    *("x" * 70, " " * 70, "=" * 70),
)

# Between these two characters all patterns of byte_level.py cut a text, whatever stands around; and so many bytes at
# least are left to the tokenizer's own engine where it is needed.
CUT = re.compile(rb"[!-~](?= )|[A-Za-z0-9](?=\n)")
PIECE_BYTES = 1000

Pieces = list[tuple[bool, bytes]]  # of one text: whether the tokenizer's own engine encodes it, and what it says


class Difference(UserError):
    """The two engines disagree on a document. index: which one of the batch; None: of the fixed set."""

    index: int | None = None


def installed() -> str | None:
    """The version of gigatoken; None where it is not installed."""
    try:
        return importlib.metadata.version("gigatoken")
    except importlib.metadata.PackageNotFoundError:
        return None


def obstacle(description: dict[str, Any], added: Iterable[Any]) -> str | None:
    """Why gigatoken is not to encode for this tokenizer, for the user to read; None: it may.

    description: the content of tokenizer.json; added: the added tokens, of `tokenizers`.
    """
    problem = byte_level.refusal(description)
    if problem is not None:
        return f"gigatoken is for plain byte-level BPE, and this has a {problem}"
    strings = _looked_for(added)
    if len(strings) > MOST_STRINGS:
        return f"gigatoken is for tokenizers that look for few strings in a text, and this looks for {len(strings)}"
    if description.get("normalizer") and not "".join(strings).isascii():
        return "gigatoken is for tokenizers without added tokens beyond ASCII where there is a normalizer"
    found = installed()
    if found is None:
        return "gigatoken is not installed; pip install -r requirements-fast.txt makes it 20 times as fast"
    pair = (importlib.metadata.version("tokenizers"), found)
    if pair != differing.VERSIONS:
        return (
            f"gigatoken {pair[1]} was not compared with it, only {differing.VERSIONS[1]} with tokenizers "
            f"{differing.VERSIONS[0]}; pip install -r requirements-fast.txt"
        )
    return None


class FastBPE:
    """Encodes by gigatoken, in one thread. Lives in one process and in those forked from it."""

    def __init__(
        self,
        description: dict[str, Any],
        added: Sequence[Any],
        own: Callable[[Sequence[str]], list[np.ndarray]],
    ) -> None:
        """description, added: as `obstacle` takes them; own: the tokenizer's own engine, texts -> ids of each.

        Raises RuntimeError, ValueError or ImportError where gigatoken does not take the tokenizer, and Difference where
        it gives other ids.
        """
        self._own = own
        self._normalises = description.get("normalizer") is not None
        self._strings = [string.encode() for string in _looked_for(added)]
        self._separator, self._content = _content(description)
        self._differing = differing.Finder(differing.table())
        # How many documents were compared at start: one number for this process and those forked from it.
        self._compared = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._build()
        special = [token.content for token in added if token.special][:20]
        odd = [a + b + a for a in (*PIECES, *special) for b in (*PIECES, *special)]
        ids, lengths = self._encode(Texts(odd), None, compared=range(0))
        for text, given, expected in zip(odd, rows(ids, lengths), own(odd), strict=True):
            if not np.array_equal(given, expected):
                self._compare(None, text, given)

    def encode(self, texts: Texts, end: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Texts -> (ids (tokens,) uint16 or uint32, lengths (texts,) int64). end: an id to put after each text, counted
        in its length.

        Raises Difference where a comparison fails.
        """
        chosen = _choice(texts)
        if self._compared[0] < FIRST:
            chosen = range(min(FIRST - int(self._compared[0]), len(texts)))
            self._compared[0] += len(chosen)
        parts = []
        for run in _runs(texts.sizes):
            parts.append(self._encode(texts.part(run), end, [i - run.start for i in chosen if i in run], run.start))
        self._keep_small()
        ids, lengths = (np.concatenate(part) for part in zip(*parts, strict=True))
        return ids, lengths

    def _encode(
        self, texts: Texts, end: int | None, compared: Iterable[int], first: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """compared: which of the texts; first: number of the first one, for messages."""
        elsewhere = self._elsewhere(texts)
        ids, ends = self._separated(texts.without(elsewhere))
        if len(ends) != len(texts):
            holding = {i: [(True, text)] for i, text in enumerate(texts.utf8) if SEPARATOR in text}
            elsewhere = dict(sorted({**elsewhere, **holding}.items()))
            ids, ends = self._separated(texts.without(elsewhere))
        assert len(ends) == len(texts)
        starts = np.concatenate(([0], ends[:-1] + 1))
        for i in compared:
            if i not in elsewhere:
                self._compare(first + i, texts.one(i).decode(), ids[starts[i] : ends[i]])
        if elsewhere:
            ids, ends = _spliced(ids, starts, ends, self._encode_pieces(elsewhere))
            starts = np.concatenate(([0], ends[:-1] + 1))
        if end is None:
            return np.delete(ids, ends), ends - starts
        ids[ends] = end
        return ids, ends - starts + 1

    def _separated(self, joined: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Texts with a separator after each -> (their ids, a separator after each; where the separators are)"""
        # The separator's id is the largest that there is.
        ids = self._engine.encode(joined).astype(np.uint16 if self._separator < 1 << 16 else np.uint32, copy=False)
        self._tokens += len(ids)
        return ids, places_of_few(ids == self._separator)

    def _elsewhere(self, texts: Texts) -> dict[int, Pieces]:
        """Which texts gigatoken does not encode as they are, in order, and how they are encoded piece by piece."""
        joined = bytes(texts.joined)
        found: dict[int, Pieces] = {}
        if not joined.isascii():
            found = {i: self._pieces(texts.one(i)) for i in self._differing.holding(texts)}
            if self._normalises:
                other = ((i, text) for i, text in enumerate(texts.utf8) if not text.isascii())
                found.update((i, [(True, text)]) for i, text in other if not _is_normal(text))
        for string in self._strings:
            if string in joined:
                found.update((i, [(True, text)]) for i, text in enumerate(texts.utf8) if string in text)
        return dict(sorted(found.items()))

    def _pieces(self, text: bytes) -> Pieces:
        """A text cut where every tokenizer cuts it, into runs with and without code points of the table."""
        borders = [0]
        while place := CUT.search(text, borders[-1] + PIECE_BYTES):
            borders.append(place.end())
        pieces: Pieces = []
        for start, end in pairwise([*borders, len(text)]):
            differs = self._differing.in_text(text[start:end]) or SEPARATOR in text[start:end]
            if pieces and pieces[-1][0] == differs:
                pieces[-1] = (differs, pieces[-1][1] + text[start:end])
            else:
                pieces.append((differs, text[start:end]))
        return pieces

    def _encode_pieces(self, texts: dict[int, Pieces]) -> dict[int, np.ndarray]:
        """-> ids of each text, some of its pieces by the tokenizer's own engine."""
        own = iter(self._own([piece.decode() for pieces in texts.values() for is_own, piece in pieces if is_own]))
        return {
            i: np.concatenate([
                next(own) if is_own else self._separated(piece + SEPARATOR)[0][:-1] for is_own, piece in pieces
            ])
            for i, pieces in texts.items()
        }  # fmt: skip

    def _compare(self, index: int | None, text: str, ids: np.ndarray) -> None:
        """Raises Difference unless the tokenizer's own engine gives the same; of a long text, to a piece of it."""
        if len(text) > COMPARED:
            start = zlib.crc32(text[:1000].encode()) % (len(text) - COMPARED)
            text = text[start : start + COMPARED]
            ids = self._separated(text.encode() + SEPARATOR)[0][:-1]
        if np.array_equal(self._own([text])[0], ids):
            return
        which = "a text of the fixed set" if index is None else f"document {index} of a batch"
        difference = Difference(
            f"gigatoken {differing.VERSIONS[1]} and tokenizers {differing.VERSIONS[0]} give different ids to {which}, "
            f"which has {text[:80]!r}; pip uninstall gigatoken, tokenise with --restart, and report the text"
        )
        difference.index = index
        raise difference

    def _keep_small(self) -> None:
        """Build the engine anew where its memory of words has grown large."""
        if self._tokens < SETTLED:
            return
        self._growth = self._growth or memory.Growth()
        if self._growth.exceeds(MOST_GROWTH) or (self._growth.first is None and self._tokens > MOST_TOKENS_UNMEASURED):
            self._build()

    def _build(self) -> None:
        import gigatoken

        self._engine: Any = None  # the old one goes before the new one comes, and its memory to the system
        memory.trim()
        self._engine = gigatoken.Tokenizer.from_json(self._content)
        self._tokens = 0
        self._growth: memory.Growth | None = None


def _looked_for(added: Iterable[Any]) -> list[str]:
    """Strings that the tokenizer finds in a text, as it does not the special ones; without those that hold others."""
    strings = sorted({token.content for token in added if not token.special}, key=len)
    return [s for i, s in enumerate(strings) if not any(shorter in s for shorter in strings[:i])]


def _content(description: dict[str, Any]) -> tuple[int, bytes]:
    """-> (id of the separator, a tokenizer.json for gigatoken: the least that says the same, and the separator)"""
    model = description["model"]
    # Tokens that are not written in the letters of bytes are found in no text; gigatoken would spell them.
    alphabet = set(byte_level.letters())
    vocabulary = {token: index for token, index in model["vocab"].items() if alphabet.issuperset(token)}
    ids = [*model["vocab"].values(), *(token["id"] for token in description.get("added_tokens", []))]
    separator = {"id": max(ids) + 1, "content": SEPARATOR.decode(), "special": True, "normalized": False}
    separator |= {"single_word": False, "lstrip": False, "rstrip": False}
    least = {
        "version": "1.0",
        "added_tokens": [separator],
        "pre_tokenizer": byte_level.plain_cut(description["pre_tokenizer"]),
        "model": {
            "type": "BPE",
            "ignore_merges": model.get("ignore_merges", False),
            "vocab": vocabulary,
            "merges": model["merges"],
        },
    }
    return separator["id"], json.dumps(least).encode()


def _spliced(
    ids: np.ndarray, starts: np.ndarray, ends: np.ndarray, own: dict[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Put the ids of texts that were left out in their places. -> (ids, where the separators are)"""
    parts, last = [], 0
    lengths = ends - starts
    for i, more in own.items():
        parts += [ids[last : ends[i]], more]
        last = ends[i]
        lengths[i] += len(more)
    return np.concatenate([*parts, ids[last:]]), np.cumsum(lengths + 1) - 1


def _is_normal(text: bytes) -> bool:
    return unicodedata.is_normalized("NFC", text.decode())


def _runs(sizes: np.ndarray) -> list[range]:
    """Texts of these sizes, about RUN_BYTES at a time: what is made of a run on the way takes six times as much
    memory."""
    ends = np.cumsum(sizes)
    runs, start = [], 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + RUN_BYTES, "right")))
        runs.append(range(start, stop))
        start = stop
    return runs


def _choice(texts: Texts) -> range:
    """Which texts of a batch are compared: by what the batch says, so that it is the same whenever it is encoded."""
    number = len(texts)
    if not number:
        return range(0)
    seed = b"%d %d %b" % (number, texts.sizes.sum(), texts.one(0)[:200])
    return range(zlib.crc32(seed) % EVERY, number, EVERY)
