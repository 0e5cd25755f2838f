"""Nothing -> documents that can be learnt: for tests, and to measure speed without any files.

Document i of a split is a function of (seed, split, i). Words follow one another by a rule with a little chance in it;
a response is its prompt's words in reverse order, a target its source's words in capitals.
"""

import random
from collections.abc import Iterator
from typing import Any

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SYLLABLES = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
# Changed whenever the same arguments give other text.
VERSION = 1


def documents(
    split: str, kind: str, documents: int = 1000, words: int = 60, vocabulary: int = 500, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yields the documents of a split, without end if not for `documents`.

    kind: dataset.kind; words: the mean length; vocabulary: how many words there are.
    """
    for index in range(documents):
        chance = random.Random(f"{seed}/{split}/{index}")
        length = 1 + int(chance.random() * 2 * words)
        text = _words(chance, length, vocabulary)
        if kind == "text":
            yield {"text": " ".join(text)}
        elif kind == "prompt_response":
            yield {"prompt": " ".join(text) + "\n", "response": " ".join(text[::-1])}
        elif kind == "pairs":
            yield {"source": " ".join(text), "target": " ".join(text).upper()}
        else:
            asked, answered = " ".join(text), " ".join(text[::-1])
            turns = [("user", asked), ("assistant", answered)]
            yield {"messages": [{"role": role, "content": content} for role, content in turns]}


def _words(chance: random.Random, length: int, vocabulary: int) -> list[str]:
    number = int(chance.random() * vocabulary)
    words = []
    for _ in range(length):
        words.append(_spelled(number))
        # Four words may follow each: a model that knows the rule still has 1.39 nats a word to guess.
        number = (number * 31 + 7 + int(chance.random() * 4)) % vocabulary
    return words


def _spelled(number: int) -> str:
    first, rest = divmod(number, len(SYLLABLES))
    return (_spelled(first - 1) if first else "") + SYLLABLES[rest]
