"""A number -> texts that tokenizers trip over, always the same: odd spaces, unseen characters, long runs."""

import random

WORDS = (
    "the of and I to a in was it that Botchan school teacher student said night house trouble don't Redshirt".split()
)
SPACES = [
    " ",
    "  ",
    "   ",
    "        ",
    "\n",
    "\n\n",
    "\t",
    "\t\t",
    "\r\n",
    "\u00a0",
    "\u2009",
    "\u3000",
    "\u200b",
    "\u2028",
    "\x0b",
]
RARE = [
    "漢字", "日本語テキスト", "Ünïcödé", "naïve", "e\u0301", "\u0301", "ﬁ", "①", "½", "Ⅷ", "ｆｕｌｌ", "🤗",
    "\x00", "\x7f", "\ufeff", "\ufffd", "مرحبا", "हिन्दी", "한국어", "ไทย", "Ω≈ç√∫", "𝔘𝔫𝔦", "\U000e0001", "¡", "´",
    "👩\u200d👩\u200d👧", "🇩🇪", "ß", "İ", "ǅ",
]  # fmt: skip
MARKS = list(".,;:!?-_()[]{}<>/\\|@#$%^&*+=~`'\"") + ["...", "--", "</", "<0x41>"[:5], "''", "0x41", "<|", "|>", "[UN"]


def texts(count: int, seed: int = 0) -> list[str]:
    """`count` texts of up to some hundred characters; without the strings of special tokens, and without U+2581."""
    chance = random.Random(seed)
    return [_text(chance) for _ in range(count)]


def _text(chance: random.Random) -> str:
    parts = []
    for _ in range(chance.randrange(16)):
        kind = chance.random()
        if kind < 0.35:
            parts.append(chance.choice(WORDS))
        elif kind < 0.6:
            parts.append(chance.choice(SPACES))
        elif kind < 0.7:
            parts.append(chance.choice(RARE))
        elif kind < 0.8:
            parts.append(chance.choice(MARKS))
        elif kind < 0.85:
            parts.append(
                chance.choice(["a", "o", "l", " ", "=", "-", "漢", "ha", "the", "1"]) * chance.randrange(1, 40)
            )
        elif kind < 0.92:
            parts.append("".join(chance.choice("abcdefghijklmnoprstuvwy' ") for _ in range(chance.randrange(1, 20))))
        elif kind < 0.96:
            parts.append(str(chance.randrange(10**9)))
        else:
            code = chance.choice(
                [chance.randrange(0x20, 0x3000), chance.randrange(0x3000, 0xD800), chance.randrange(0xE000, 0x20000)]
            )
            parts.append(chr(code) if code != 0x2581 else "")
    return "".join(parts)
