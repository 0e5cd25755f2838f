"""Bytes, words and lines, counted many texts at a time, are what Python finds in each."""

import random
import sys

import numpy as np
import pytest

from corpus import measuring
from corpus.measuring import measured
from tokenizer.batches import Texts
from utils.compiled import why_not

SPACES = [chr(i) for i in range(sys.maxunicode + 1) if chr(i).isspace()]


@pytest.fixture(params=["compiled", "by NumPy"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of counting."""
    if request.param == "by NumPy":
        monkeypatch.setattr(measuring, "compiled", lambda source: None)
    elif why_not(measuring.SOURCE):
        pytest.skip(str(why_not(measuring.SOURCE)))


def expected(texts: list[str]) -> list[list[int]]:
    return [[len(t.encode()), len(t.split()), t.count("\n") + (not t.endswith("\n"))] for t in texts]


def counted(texts: list[str]) -> list[list[int]]:
    return measured(Texts(texts)).tolist()


def test_every_space_and_its_neighbours() -> None:
    near = [chr(ord(space) + step) for space in SPACES for step in (-1, 0, 1, 64) if ord(space) + step >= 0]
    texts = [f"{a}x{b}y\n" for a in near for b in (*SPACES, "z")]
    assert counted(texts) == expected(texts)
    assert measured(Texts([])).shape == (0, 3) and measured(Texts([])).dtype == np.int64
    assert counted(["", "\n", " "]) == expected(["", "\n", " "])


@pytest.mark.parametrize("block", [64, 128, 1 << 16])
def test_random_texts(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(measuring, "BLOCK", block)  # of the way by NumPy
    chance = random.Random(0)
    letters = [*SPACES, *"abc  \n\néß漢字か🤗\u200b\x00"]
    for number in range(200):
        longest = 90 if number % 4 else 900
        texts = ["".join(chance.choices(letters, k=chance.randint(0, longest))) for _ in range(chance.randint(0, 20))]
        assert counted(texts) == expected(texts)


def test_a_space_at_every_place_of_a_long_text() -> None:
    """Texts are counted some hundred bytes at a time: none of a space's bytes is lost between two of these blocks."""
    for space in (" ", "\n", "\u0085", "\u2003", "\u3000"):
        texts = ["x" * i + space + "漢y" * 150 for i in range(600)] + ["é" * i + space for i in range(300)]
        assert counted(texts) == expected(texts)
