"""Bytes, words and lines, counted many texts at a time, are what Python finds in each."""

import random
import sys

import numpy as np
import pytest

from corpus import measuring
from corpus.measuring import measured
from tokenizer.batches import utf8_of

SPACES = [chr(i) for i in range(sys.maxunicode + 1) if chr(i).isspace()]


def expected(texts: list[str]) -> list[list[int]]:
    return [[len(t.encode()), len(t.split()), t.count("\n") + (not t.endswith("\n"))] for t in texts]


def counted(texts: list[str]) -> list[list[int]]:
    return measured(utf8_of(texts)).tolist()


def test_every_space_and_its_neighbours() -> None:
    near = [chr(ord(space) + step) for space in SPACES for step in (-1, 0, 1, 64) if ord(space) + step >= 0]
    texts = [f"{a}x{b}y\n" for a in near for b in (*SPACES, "z")]
    assert counted(texts) == expected(texts)
    assert measured(utf8_of([])).shape == (0, 3) and measured(utf8_of([])).dtype == np.int64
    assert counted(["", "\n", " "]) == expected(["", "\n", " "])


@pytest.mark.parametrize("block", [64, 128, 1 << 16])
def test_random_texts(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(measuring, "BLOCK", block)
    chance = random.Random(0)
    letters = [*SPACES, *"abc  \n\néß漢字か🤗\u200b\x00"]
    for _ in range(200):
        texts = ["".join(chance.choices(letters, k=chance.randint(0, 90))) for _ in range(chance.randint(0, 20))]
        assert counted(texts) == expected(texts)
