"""Tokenizer files (name -> bytes) -> an engine: one of two libraries, seen through the same few methods.

`HuggingFaceEngine` runs a tokenizer.json by the `tokenizers` library, `SentencePieceEngine` a .model by
`sentencepiece`. Both leave the special strings that stand in a text as text, unless asked otherwise.
"""

import json
import multiprocessing
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.hashing import sha256_bytes, sha256_json
from utils.messages import UserError

# In the order in which transformers adds the strings of these roles to a vocabulary that lacks them.
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

Offsets = list[tuple[int, int]]

# Roles of a bare tokenizer.json, by the strings that everyone uses. Never a padding token that is really another one.
WELL_KNOWN = {
    "bos": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    "unk": ("<unk>", "[UNK]"),
    "sep": ("[SEP]",),
    "pad": ("<pad>", "[PAD]", "<|padding|>"),
    "cls": ("[CLS]",),
    "mask": ("[MASK]", "<mask>"),
}


def starts_word(token: str, space: tuple[str, ...], continues: str | None) -> bool:
    """Whether a token begins a word: after a space, or with a character that belongs to no word.

    space: the ways in which the vocabulary writes one; continues: the prefix of tokens inside a word, in WordPiece.
    """
    if continues is not None:
        return not token.startswith(continues)
    return not token[:1].isalnum() or token.startswith(space)


class HuggingFaceEngine:
    """A tokenizer.json, run by the `tokenizers` library."""

    def __init__(self, files: dict[str, bytes]) -> None:
        """files: tokenizer.json and, beside it, what names the roles of its special tokens.

        Raises UserError where tokenizer.json cannot be read.
        """
        from tokenizers import Tokenizer as Pipeline

        try:
            self.description: dict[str, Any] = json.loads(files["tokenizer.json"])
            self.pipeline = Pipeline.from_str(files["tokenizer.json"].decode())
        except Exception as problem:  # the library raises plain Exception
            raise UserError(f"tokenizer.json cannot be read: {problem}; train or fetch it again") from problem
        self.pipeline.no_truncation()
        self.pipeline.no_padding()
        config = {**_object(files, "special_tokens_map.json"), **_object(files, "tokenizer_config.json")}
        self._add_missing(config)
        self.pipeline.encode_special_tokens = True
        self.vocabulary: dict[str, int] = self.pipeline.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self.vocabulary.values(), default=-1) + 1
        self.roles = self._find_roles(config)
        added = self.pipeline.get_added_tokens_decoder()
        self.special_ids = sorted({i for i, token in added.items() if token.special} | set(self.roles.values()))

    @property
    def fingerprint(self) -> str:
        """sha256 of tokenizer.json without truncation and padding, with the special ids."""
        pipeline = {key: value for key, value in self.description.items() if key not in ("truncation", "padding")}
        return sha256_json({"tokenizer": pipeline, "special": self.roles})

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return self.pipeline.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, uint32."""
        encodings = self.pipeline.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def encode_with_offsets(self, text: str, specials: bool = False) -> tuple[list[int], Offsets]:
        """Ids and their places. specials: strings of special tokens in the text become those tokens."""
        self.pipeline.encode_special_tokens = not specials
        try:
            encoding = self.pipeline.encode(text, add_special_tokens=False)
        finally:
            self.pipeline.encode_special_tokens = True
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int], skip_special: bool) -> str:
        """Text of the ids; those past the vocabulary are left out."""
        return self.pipeline.decode(ids, skip_special_tokens=skip_special)

    def token(self, index: int) -> str:
        """How the vocabulary writes a token; empty where it has none."""
        return self.pipeline.id_to_token(index) or ""

    def starts_word(self) -> np.ndarray:
        """(vocab_size,) bool."""
        model = self.description["model"]
        layout = [self.description.get("pre_tokenizer"), self.description.get("decoder")]
        bytes_as_letters = "ByteLevel" in json.dumps(layout)
        space = ("Ġ",) if bytes_as_letters else ("▁", " ")
        continues = model.get("continuing_subword_prefix") or None
        if continues is None and not any(token.startswith(space) for token in self.vocabulary):
            return np.ones(self.vocab_size, dtype=bool)  # the vocabulary does not say where words begin
        starts = np.zeros(self.vocab_size, dtype=bool)
        for token, index in self.vocabulary.items():
            # In byte-level vocabularies bytes below 33 are written as letters: Ċ is a newline, ĉ a tab.
            starts[index] = starts_word(token, space, continues) or (bytes_as_letters and token[:1] in "ĉĊč")
        starts[self.special_ids] = True
        return starts

    def _add_missing(self, config: dict[str, Any]) -> None:
        """Give ids to special tokens that only the config names, as transformers does."""
        from tokenizers import AddedToken

        listed = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
        wanted = [(_text(token), bool(token.get("special", True))) for _, token in listed]
        wanted += [(_text(config.get(f"{role}_token")), True) for role in ROLES]
        for key in ("extra_special_tokens", "additional_special_tokens"):
            extra = config.get(key) or []
            wanted += [(_text(token), True) for token in (extra.values() if isinstance(extra, dict) else extra)]
        for text, special in wanted:
            if text and self.pipeline.token_to_id(text) is None:
                self.pipeline.add_tokens([AddedToken(text, special=special, normalized=not special)])

    def _find_roles(self, config: dict[str, Any]) -> dict[str, int]:
        strings = {role: _text(config.get(f"{role}_token")) for role in ROLES}
        if not any(strings.values()):
            special = {token["content"] for token in self.description.get("added_tokens", []) if token["special"]}
            strings = {role: next((s for s in known if s in special), None) for role, known in WELL_KNOWN.items()}
        strings["unk"] = strings["unk"] or self.description["model"].get("unk_token")
        return {role: self.vocabulary[s] for role, s in strings.items() if s is not None and s in self.vocabulary}


class SentencePieceEngine:
    """A SentencePiece .model, run by `sentencepiece`."""

    def __init__(self, model: bytes, specials: dict[str, str]) -> None:
        """model: the bytes of the .model; specials: role -> piece, for roles that the model itself does not know.

        Raises UserError where the model cannot be read.
        """
        import sentencepiece

        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as problem:
            raise UserError(f"the SentencePiece model cannot be read: {problem}; train or fetch it again") from problem
        self.model = model
        self.vocab_size: int = self.processor.vocab_size()
        sp = self.processor
        own = {"bos": sp.bos_id(), "eos": sp.eos_id(), "unk": sp.unk_id(), "pad": sp.pad_id()}
        self.roles = {role: index for role, index in own.items() if index >= 0}
        for role, piece in specials.items():
            index = sp.piece_to_id(piece)
            if sp.id_to_piece(index) == piece:  # an unknown piece gets the id of <unk>
                self.roles[role] = index
        control = {i for i in range(self.vocab_size) if sp.is_control(i) or sp.is_unknown(i)}
        self.special_ids = sorted(control | set(self.roles.values()))
        self._strings = {sp.id_to_piece(i): i for i in self.special_ids}

    @property
    def fingerprint(self) -> str:
        """sha256 of the .model's bytes, with the special ids."""
        return sha256_json({"model": sha256_bytes(self.model), "special": self.roles})

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return self.processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, uint32."""
        # A worker process has its core; threads of its own would only fight those of its neighbours.
        threads = -1 if multiprocessing.parent_process() is None else 1
        batch = self.processor.encode(list(texts), return_type="numpy", num_threads=threads)
        return [ids.astype(np.uint32) for ids in batch]

    def encode_with_offsets(self, text: str, specials: bool = False) -> tuple[list[int], Offsets]:
        """Ids and their places. specials: strings of special tokens in the text become those tokens."""
        if not specials:
            return self._with_offsets(text, 0)
        ids: list[int] = []
        offsets: Offsets = []
        place = 0
        for part in re.split("(" + "|".join(map(re.escape, self._strings)) + ")", text):
            if part in self._strings:
                ids.append(self._strings[part])
                offsets.append((place, place + len(part)))
            elif part:
                more_ids, more_offsets = self._with_offsets(part, place)
                ids += more_ids
                offsets += more_offsets
            place += len(part)
        return ids, offsets

    def _with_offsets(self, text: str, place: int) -> tuple[list[int], Offsets]:
        if not text:
            return [], []
        encoding = self.processor.encode(text, return_type="offset_mapping")
        ids = encoding["ids"]
        offsets = [(place + start, place + end) for start, end in encoding["offsets"]]
        # Of the bytes of one character the library gives the character to the last: all of them stand for it.
        for i in range(len(ids) - 2, -1, -1):
            empty = offsets[i][0] == offsets[i][1]
            if empty and self.processor.is_byte(ids[i]) and self.processor.is_byte(ids[i + 1]):
                offsets[i] = offsets[i + 1]
        return ids, offsets

    def decode(self, ids: list[int], skip_special: bool) -> str:
        """Text of the ids; those past the vocabulary are left out."""
        known = [i for i in ids if i < self.vocab_size]
        if skip_special:
            # <unk> is no layout: it stands for a piece of the text, and is shown as the library shows it.
            skipped = set(self.special_ids) - {self.roles.get("unk")}
            return self.processor.decode([i for i in known if i not in skipped])
        text = ""
        run: list[int] = []
        for index in [*known, -1]:
            if index >= 0 and index not in self.special_ids:
                run.append(index)
                continue
            text += self.processor.decode(run) if run else ""
            run = []
            text += self.processor.id_to_piece(index) if index >= 0 else ""
        return text

    def token(self, index: int) -> str:
        """How the vocabulary writes a token; empty where it has none."""
        return self.processor.id_to_piece(index) if index < self.vocab_size else ""

    def starts_word(self) -> np.ndarray:
        """(vocab_size,) bool."""
        pieces = [self.processor.id_to_piece(i) for i in range(self.vocab_size)]
        spaces = {f"<0x{ord(space):02X}>" for space in "\t\n\r"}
        inside = [self.processor.is_byte(i) and pieces[i] not in spaces for i in range(self.vocab_size)]
        starts = np.array([starts_word(p, ("▁",), None) and not i for p, i in zip(pieces, inside, strict=True)])
        starts[self.special_ids] = True
        return starts


def _object(files: dict[str, bytes], name: str) -> dict[str, Any]:
    """A JSON object among the files; empty where there is none."""
    try:
        return json.loads(files.get(name, b"{}"))
    except ValueError as problem:
        raise UserError(f"{name} is not JSON: {problem}") from problem


def _text(token: Any) -> str | None:
    """The string of a special token, which files write bare or as an object."""
    return token.get("content") if isinstance(token, dict) else token
