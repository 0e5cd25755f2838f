"""A trained tokenizer -> the rows of its report: how well it compresses text it has not seen, what is in its
vocabulary, and which texts do not come back from it as they were."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from configs.places import splits
from configs.schema import Config
from corpus.documents import BadDocuments, read_documents
from corpus.fields import texts_of
from corpus.sources import has_split
from tokenizer.tokenizer import Tokenizer
from tokenizer.training_text import pieces
from utils.messages import UserError, size

HELD_OUT_BYTES = 1_000_000
# By name, what tokenizers are known to lose.
TRIALS = {
    "two spaces": "one  two   three",
    "spaces at the ends": " begins and ends ",
    "indentation": "def f(x):\n    if x:\n        return x\n",
    "tabs": "a\tb\t\tc",
    "empty lines": "a\n\n\nb\n",
    "Windows line ends": "a\r\nb\r\n",
    "capitals": "Hello WORLD iPhone",
    "numbers": "3.14159 1,000,000 12:30",
    "punctuation": "don't (stop) — “now”… isn't it?",
    "accents": "naïve Ünïcödé ąęł",
    "accents apart from their letters": "e\u0301 a\u0308",
    "compatibility characters": "ﬁ ½ ① Ⅷ ｆｕｌｌ",
    "other scripts": "漢字 かな 한국어 русский العربية हिन्दी",
    "emoji": "🤗 👩‍👩‍👧 🇩🇪",
    "odd spaces": "a\u00a0b\u2009c\u3000d\u200be",
    "control characters": "a\x00b\x7fc",
    "the sign for a space (U+2581)": "a▁b",
    "special strings": "<s> <unk> <eos> <|endoftext|> [MASK]",
}


def of(config: Config, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The rows, for the table that ends a training."""
    name, texts = _held_out(config)
    ids = tokenizer.encode_batch(texts)
    n_bytes = sum(len(text.encode()) for text in texts)
    n_tokens = sum(map(len, ids))
    wanted = config.tokenizer.vocab_size
    fewer = f" (of {wanted:,}: the text has no more)" if tokenizer.vocab_size < wanted else ""
    rows = [("vocabulary", f"{tokenizer.vocab_size:,} tokens{fewer}; {_specials(tokenizer)}")]
    if n_tokens:
        rows.append((f"{name} text", f"{n_bytes / n_tokens:.3f} bytes per token over {size(n_bytes)}"))
        used = len(np.unique(np.concatenate(ids)))
        rows.append(("", f"{used:,} of the tokens occur in it ({used / tokenizer.vocab_size:.0%})"))
        rows += _unknown(tokenizer, ids)
        rows.append(("round trips", _round_trips(tokenizer, texts, ids, name)))
    lost = [
        what for what, text in TRIALS.items() if tokenizer.decode(tokenizer.encode(text), skip_special=False) != text
    ]
    rows.append(
        ("hard texts", f"all {len(TRIALS)} come back as they were" if not lost else f"changed: {', '.join(lost)}")
    )
    return [*rows, *_samples(tokenizer)]


def differing_share(one: Tokenizer, other: Tokenizer, texts: list[str]) -> tuple[int, int]:
    """(texts for which the two give different ids, texts)."""
    pairs = zip(one.encode_batch(texts), other.encode_batch(texts), strict=True)
    return sum(not np.array_equal(a, b) for a, b in pairs), len(texts)


def held_out_texts(config: Config) -> list[str]:
    """Some of the text that the tokenizer was not trained on, and the hard texts."""
    return [*_held_out(config)[1], *TRIALS.values()]


def _held_out(config: Config) -> tuple[str, list[str]]:
    """(what it is, texts) of a validation set or the test set; where there is neither, of the text trained on."""
    for split in [*(name for name in splits(config) if name != "train"), "train"]:
        if not has_split(config, split):
            continue
        try:
            texts = list(_some(config, split))
        except UserError:  # a split that turns out to be empty is another stage's business
            continue
        if texts:
            return ("held-out" if split != "train" else "training"), texts
    return "held-out", []


def _some(config: Config, split: str) -> Iterator[str]:
    left = HELD_OUT_BYTES
    for document in read_documents(config, split, on_bad=BadDocuments("skip")):
        for text in texts_of(document.fields):
            for piece in pieces(text):
                left -= len(piece.encode())
                if left < 0:
                    return
                yield piece


def _round_trips(tokenizer: Tokenizer, texts: list[str], ids: list[np.ndarray], name: str) -> str:
    changed = 0
    first = ""
    for text, encoded in zip(texts, ids, strict=True):
        decoded = tokenizer.decode(encoded, skip_special=False)
        if decoded != text:
            changed += 1
            first = first or _first_difference(text, decoded)
    if not changed:
        return f"all {len(texts):,} pieces of {name} text come back as they were"
    return f"{changed:,} of {len(texts):,} pieces of {name} text come back changed, such as\n{first}"


def _first_difference(text: str, decoded: str) -> str:
    both = zip(text, decoded, strict=False)
    place = next((i for i, (a, b) in enumerate(both) if a != b), min(len(text), len(decoded)))
    low = max(0, place - 15)
    return f"{text[low : place + 25]!r} -> {decoded[low : place + 25]!r}"


def _unknown(tokenizer: Tokenizer, ids: list[np.ndarray]) -> list[tuple[str, str]]:
    if tokenizer.unk_id is None:
        return []
    count = int(sum((row == tokenizer.unk_id).sum() for row in ids))
    return [("unknown", f"{count:,} tokens ({count / max(1, sum(map(len, ids))):.3%})")] if count else []


def _specials(tokenizer: Tokenizer) -> str:
    named = {index: tokenizer.token(index) for index in tokenizer.special_ids}
    return "special: " + (", ".join(f"{text} {index}" for index, text in islice(named.items(), 12)) or "none")


def _samples(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """A look at the vocabulary: evenly over its ids, and the longest."""
    special = set(tokenizer.special_ids)
    ordinary = [i for i in range(tokenizer.vocab_size) if i not in special and tokenizer.token(i)]
    if not ordinary:
        return []
    shown = [ordinary[len(ordinary) * k // 14] for k in range(14)] + [ordinary[-1]]
    longest = sorted(ordinary, key=lambda i: -len(tokenizer.token(i)))[:6]
    return [
        ("some tokens", " ".join(f"{tokenizer.token(i)!r}" for i in shown)),
        ("longest", " ".join(f"{tokenizer.token(i)[:40]!r}" for i in longest)),
    ]
