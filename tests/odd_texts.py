"""A number -> texts on which engines of byte-level BPE may part ways, always the same."""

import random

from tokenizer import differing

WORDS = "the of don't I'll we've they're it's I'm he'd you'RE IT'S O'Neill rock'n'roll Ünïcödé naïve x1 42nd".split()
SPECIAL = ["<|endoftext|>", "<eos>", "<s>", "</s>", "<pad>", "<mask>", "<|im_start|>", "<x>", "<|end", "|>"]
SPACES = [
    " ",
    "  ",
    " " * 9,
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    "\t\t",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u00a0",
    "\u1680",
]
SPACES += ["\u2003", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u180e", "\u200b", "\ufeff"]
ENDINGS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'ſ", "''", "’s", "'", "'x"]
LETTERS = "漢字 かな 한국어 русский العربية हिन्दी ไทย ελληνικά עִברית e\u0301".split()
LETTERS += "ß İ ǅ ʰ ª ﬁ ﬅ \u212a ı 𝔘𝔫 🤗 👩\u200d👩 🇩🇪 \U000e0001".split()
NUMBERS = ["0", "7", "12", "123", "1234", "1" * 17, "½", "Ⅷ", "²", "٣٤٥", "१२", "①", "3.14", "1,000", "0x1F"]
MARKS = list('.,;:!?-_()[]{}<>/\\|@#$%^&*+=~`"') + [
    "...",
    "--",
    "</",
    "=" * 5,
    "//",
    "?!",
    "\x00",
    "\x00\x00",
    "\x01",
    "\x7f",
]


def texts(count: int, seed: int = 0) -> list[str]:
    """`count` texts of up to some hundred characters."""
    chance = random.Random(seed)
    apart = differing.table().nonzero()[0].tolist()
    apart = [code for code in apart if code not in differing.SURROGATES]
    return [_text(chance, apart) for _ in range(count)]


def _text(chance: random.Random, apart: list[int]) -> str:
    parts = []
    for _ in range(chance.randrange(14)):
        kind = chance.random()
        if kind < 0.2:
            parts.append(chance.choice(WORDS))
        elif kind < 0.4:
            parts.append(chance.choice(SPACES))
        elif kind < 0.48:
            parts.append(chance.choice(ENDINGS))
        elif kind < 0.56:
            parts.append(chance.choice(LETTERS))
        elif kind < 0.64:
            parts.append(chance.choice(NUMBERS))
        elif kind < 0.74:
            parts.append(chance.choice(MARKS))
        elif kind < 0.79:
            parts.append(chance.choice(SPECIAL))
        elif kind < 0.83:
            parts.append(
                chance.choice(["a", " ", "\n", "1", "漢", "é", "=", "ab", "\t", " a", "'"]) * chance.randrange(1, 60)
            )
        elif kind < 0.85:
            parts.append(chr(chance.choice(apart)))
        elif kind < 0.93:
            parts.append(_letter(chance))
        else:
            parts.append("".join(chance.choice("abcdefghijklmnoprstuvwyABZ' ") for _ in range(chance.randrange(1, 25))))
    return "".join(parts)


def _letter(chance: random.Random) -> str:
    """A code point of any plane, the first ones oftener."""
    high = chance.choice([0x80, 0x800, 0x3000, 0x10000, 0x20000, 0x110000])
    code = chance.randrange(high)
    return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"
