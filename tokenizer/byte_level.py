"""A tokenizer.json -> whether it is plain byte-level BPE, of which the ids can be had by more than one engine.

Byte-level BPE writes each byte of a text as a letter of an alphabet of 256, cuts the text by a pattern, and merges
letters within the cuts. What a file asks for beyond that is refused by name.
"""

from typing import Any

# What a token never crosses: of GPT-2, of GPT-4 and Llama 3, of Qwen 2, and of GPT-4o
# (https://github.com/openai/tiktoken, and the tokenizer.json of these models).
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_AFTER_NUMBERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _AFTER_NUMBERS
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _AFTER_NUMBERS
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The patterns that a tokenizer.json spells out; GPT-2's is what ByteLevel has by itself.
SPELLED_OUT = (GPT4, QWEN2, GPT4O)

# What the model may say, and what beside it; None: anything, which changes no ids (with all bytes, nothing is unknown).
_MODEL: dict[str, tuple[Any, ...] | None] = {
    "type": ("BPE",),
    "dropout": (None,),
    "unk_token": None,
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": None,
    "byte_fallback": (False,),
    "ignore_merges": (False, True),
    "vocab": None,
    "merges": None,
}
_BESIDE = {
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
    "model",
}  # fmt: skip


def letters() -> list[str]:
    """(256,) the letter that stands for each byte: itself where it prints, else one from U+0100 on."""
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in itself else next(others)) for byte in range(256)]


def pre_tokeniser(pattern: str | None) -> dict[str, Any]:
    """How a tokenizer.json says by what a text is cut. pattern: None for GPT-2's."""
    spelled = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pattern is None}
    if pattern is None:
        return spelled
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, spelled]}


def refusal(description: dict[str, Any]) -> str | None:
    """What keeps this tokenizer.json from being plain byte-level BPE, for the user to read; None: it is plain."""
    model = description["model"]
    if model.get("type", "BPE") != "BPE":
        return f"model {model['type']}"
    for key, value in model.items():
        allowed = _MODEL.get(key, ())
        if allowed is not None and not any(value is one or value == one for one in allowed):
            return f"model.{key}={value}"
    unknown = sorted(set(description) - _BESIDE)
    if unknown:
        return f"{unknown[0]}, which is not known"
    if description.get("normalizer") not in (None, {"type": "NFC"}):
        return f"normalizer {_kind(description['normalizer'])}"
    if plain_cut(description.get("pre_tokenizer")) is None:
        return f"pre_tokenizer {_kind(description.get('pre_tokenizer'))}"
    return _odd_vocabulary(model)


def plain_cut(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """How a text is cut, written out; None where that is by no pattern that is known, or not by that alone."""

    def essence(part: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in part.items() if key != "trim_offsets"}  # which post-processors alone read
        if kept.get("type") == "ByteLevel":
            kept.setdefault("use_regex", True)  # files from before it could be chosen
        if "pretokenizers" in kept:
            kept["pretokenizers"] = [essence(one) for one in kept["pretokenizers"]]
        return kept

    known = [pre_tokeniser(pattern) for pattern in (None, *SPELLED_OUT)]
    return next((one for one in known if essence(given or {}) == essence(one)), None)


def _odd_vocabulary(model: dict[str, Any]) -> str | None:
    vocabulary, merges = model["vocab"], model["merges"]
    if not all(letter in vocabulary for letter in letters()):
        return "vocabulary without all 256 bytes"
    if len(set(vocabulary.values())) < len(vocabulary):
        return "vocabulary with two tokens of one id"
    if len({merge if isinstance(merge, str) else " ".join(merge) for merge in merges}) < len(merges):
        return "merge that stands twice"
    return None


def _kind(part: dict[str, Any] | None) -> str:
    """The kind of a part, and of what it is made of."""
    if part is None:
        return "none"
    inner = part.get("pretokenizers") or part.get("normalizers") or []
    return part["type"] + (f" of {', '.join(one['type'] for one in inner)}" if inner else "")
