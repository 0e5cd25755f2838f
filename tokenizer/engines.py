"""Tokenizer files (name -> bytes) -> an engine: one of two libraries, seen through the same few methods.

`HuggingFaceEngine` runs a tokenizer.json by the `tokenizers` library (and batches by gigatoken, where that gives the
same ids: fast_bpe.py), `SentencePieceEngine` a .model by `sentencepiece`. Both leave the special strings that stand in
a text as text, unless asked otherwise. A worker process encodes in one thread, any other in as many as it has cores.
"""

import importlib.metadata
import json
import re
import unicodedata
from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tokenizer import byte_level, token_ends
from tokenizer.batches import Texts, in_one_thread, is_worker, rows, slices
from tokenizer.fast_bpe import FastBPE, obstacle
from utils.hashing import sha256_bytes, sha256_json
from utils.messages import UserError

# In the order in which transformers adds the strings of these roles to a vocabulary that lacks them.
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

Offsets = list[tuple[int, int]]
# Ids of several texts in a row, (tokens,) uint16 or uint32; their lengths, (texts,) int64.
Joined = tuple[np.ndarray, np.ndarray]

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

    def __init__(self, files: dict[str, bytes], gigatoken: bool = True) -> None:
        """files: tokenizer.json and, beside it, what names the roles of its special tokens; gigatoken: may encode.

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
        self._use_gigatoken = gigatoken
        self._fast: FastBPE | None = None
        self._encodes = ""  # by what batches are encoded; not known before it is needed

    @property
    def fast(self) -> str:
        """One line: what encodes batches, and why not something faster."""
        self._open()
        return self._encodes

    @property
    def fingerprint(self) -> str:
        """sha256 of tokenizer.json without truncation and padding, with the special ids."""
        pipeline = {key: value for key, value in self.description.items() if key not in ("truncation", "padding")}
        return sha256_json({"tokenizer": pipeline, "special": self.roles})

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return self.pipeline.encode(text, add_special_tokens=False).ids

    def encode_joined(self, texts: Texts, end: int | None) -> Joined:
        """Ids of all texts in a row. end: an id to put after each text, counted in its length."""
        fast = self._open()
        if fast is None:
            return self._own(texts.strings, end, one_thread=is_worker())
        return fast.encode(texts, end)

    def encode_with_ends(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids of each text, and for each the place after its last character, int64."""
        if self._bytes_of_tokens is None:
            found = []
            for some in slices(texts):
                with in_one_thread(is_worker()):
                    encodings = self.pipeline.encode_batch(some, add_special_tokens=False)
                found += [(np.array(e.ids, np.uint32), _ends(e.offsets)) for e in encodings]
            return found
        ids, lengths = self.encode_joined(Texts(list(texts)), None)
        ids = ids.astype(np.uint32, copy=False)
        in_bytes = token_ends.ends_in_bytes(self._bytes_of_tokens[ids], lengths)
        found = []
        for text, row, bytes_ in zip(texts, rows(ids, lengths), rows(in_bytes, lengths), strict=True):
            ends = None
            if self.description.get("normalizer") is None or unicodedata.is_normalized("NFC", text):
                ends = token_ends.in_characters(bytes_, text)
            found.append((row, _ends(self.encode_with_offsets(text)[1]) if ends is None else ends))
        return found

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

    def _open(self) -> FastBPE | None:
        """gigatoken, where it may encode. Raises UserError where it gives other ids."""
        if not self._encodes:
            added = list(self.pipeline.get_added_tokens_decoder().values())
            problem = obstacle(self.description, added) if self._use_gigatoken else "gigatoken was not asked for"
            if problem is None:
                try:
                    self._fast = FastBPE(self.description, added, self._own_rows)
                except (RuntimeError, ValueError, ImportError) as refused:
                    problem = f"gigatoken does not take this tokenizer: {(str(refused).splitlines() or [''])[0][:100]}"
            name = "gigatoken" if problem is None else "tokenizers"
            version = importlib.metadata.version(name)
            self._encodes = f"{name} {version}" + (f": {problem}" if problem else "")
        return self._fast

    def _own(self, texts: Sequence[str], end: int | None, one_thread: bool) -> Joined:
        ids, lengths = array("I"), array("q")
        for some in slices(texts):
            with in_one_thread(one_thread):
                encodings = self.pipeline.encode_batch_fast(some, add_special_tokens=False)
            for encoding in encodings:
                before = len(ids)
                ids.fromlist(encoding.ids)
                if end is not None:
                    ids.append(end)
                lengths.append(len(ids) - before)
        return np.frombuffer(ids, np.uint32), np.frombuffer(lengths, np.int64)

    def _own_rows(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, in one thread: for gigatoken, which may be forked after that. One by one, which is sooner
        for the one text that it mostly asks for."""
        with in_one_thread(True):
            return [np.array(self.encode(text), np.uint32) for text in texts]

    @cached_property
    def _bytes_of_tokens(self) -> np.ndarray | None:
        """(vocab_size,) where the bytes of each token tell where in a text it ends, else None."""
        if byte_level.refusal(self.description) is not None or token_ends.trims_offsets(self.description):
            return None
        return token_ends.byte_lengths(self.vocabulary, self.vocab_size)

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
        self._bytes = {i for i in range(self.vocab_size) if sp.is_byte(i)}

    @property
    def fingerprint(self) -> str:
        """sha256 of the .model's bytes, with the special ids."""
        return sha256_json({"model": sha256_bytes(self.model), "special": self.roles})

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return self.processor.encode(text)

    @property
    def fast(self) -> str:
        """One line: what encodes batches."""
        return f"sentencepiece {importlib.metadata.version('sentencepiece')}"

    def encode_joined(self, texts: Texts, end: int | None) -> Joined:
        """Ids of all texts in a row. end: an id to put after each text, counted in its length."""
        found = self.processor.encode(texts.strings, return_type="numpy", num_threads=1 if is_worker() else -1)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        ids = np.concatenate(found).astype(np.uint32, copy=False)
        if end is None:
            return ids, lengths
        return np.insert(ids, np.cumsum(lengths), np.uint32(end)), lengths + 1

    def encode_with_ends(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids of each text, and for each the place after its last character, int64."""
        threads = 1 if is_worker() else -1
        encodings = self.processor.encode(list(texts), return_type="offset_mapping", num_threads=threads)
        found = []
        for encoding in encodings:
            ids = encoding["ids"]
            found.append((np.array(ids, np.uint32), _ends(self._mended(ids, encoding["offsets"]))))
        return found

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
        offsets = self._mended(encoding["ids"], encoding["offsets"])
        return encoding["ids"], [(place + start, place + end) for start, end in offsets]

    def _mended(self, ids: list[int], offsets: Offsets) -> Offsets:
        """Of the bytes of one character the library gives the character to the last: all of them stand for it."""
        for i in range(len(ids) - 2, -1, -1) if self._bytes else ():
            empty = offsets[i][0] == offsets[i][1]
            if empty and ids[i] in self._bytes and ids[i + 1] in self._bytes:
                offsets[i] = offsets[i + 1]
        return offsets

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


def _ends(offsets: Offsets) -> np.ndarray:
    return np.fromiter((end for _, end in offsets), np.int64, len(offsets))


def _object(files: dict[str, bytes], name: str) -> dict[str, Any]:
    """A JSON object among the files; empty where there is none."""
    try:
        return json.loads(files.get(name, b"{}"))
    except ValueError as problem:
        raise UserError(f"{name} is not JSON: {problem}") from problem


def _text(token: Any) -> str | None:
    """The string of a special token, which files write bare or as an object."""
    return token.get("content") if isinstance(token, dict) else token
