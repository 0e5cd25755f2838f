"""A directory, a file or a name on the Hub -> a Tokenizer: text to ids and back.

One class over Hugging Face tokenizers and SentencePiece models. It never adds special tokens by itself: BOS, EOS
and the like are put where the config says, by tokenize_data.py and dataset.py. Special strings that stand in a text
("<eos>") stay text, so that no document can end itself; only a chat template may write them (`encode_chat`).
(Added tokens that the tokenizer itself does not call special, and SentencePiece's user-defined symbols, are
ordinary vocabulary, and are found in text.)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.pins import revision_of
from configs.places import REPOSITORY, tokenizer_dir
from configs.schema import Config
from tokenizer import finding
from tokenizer.batches import Texts, rows
from tokenizer.engines import HuggingFaceEngine, Offsets, SentencePieceEngine
from utils.files import atomic_write, shown
from utils.messages import UserError


class Tokenizer:
    """Text to ids and back. Holds the bytes of its files, so it pickles whole and is saved byte for byte."""

    def __init__(self, files: dict[str, bytes], where: str = "memory", gigatoken: bool = True) -> None:
        """files: name -> bytes, as `finding.find_files` gathers them; where: what messages call it.

        gigatoken: batches may be encoded by it, where it is installed and gives the same ids.
        The engine is the .model where specials.json lies beside it (a tokenizer trained by train_sp_tokenizer, which
        may have a tokenizer.json converted from it as well) or where there is no tokenizer.json; else tokenizer.json.
        """
        self.files = files
        self.where = where
        self.gigatoken = gigatoken
        models = sorted(name for name in files if name.endswith(".model"))
        self.engine: HuggingFaceEngine | SentencePieceEngine
        if models and (finding.SPECIALS in files or "tokenizer.json" not in files):
            if len(models) > 1:
                raise UserError(f"{where} has several SentencePiece models: {', '.join(models)}; name one of them")
            specials = json.loads(files.get(finding.SPECIALS, b"{}"))
            self.engine = SentencePieceEngine(files[models[0]], specials)
        else:
            self.engine = HuggingFaceEngine(files, gigatoken)
        self.vocab_size: int = self.engine.vocab_size
        self.special_ids: list[int] = self.engine.special_ids
        self.fingerprint: str = self.engine.fingerprint
        self._starts_word: np.ndarray | None = None

    @classmethod
    def load(cls, path_or_name: str | Path, revision: str | None = None) -> "Tokenizer":
        """Read a tokenizer.

        path_or_name: a directory, a tokenizer.json, a .model, or a name on the Hub; revision: of the Hub's.
        Raises UserError where there is none, or where it cannot be read.
        """
        return cls(finding.find_files(str(path_or_name), revision), str(path_or_name))

    @classmethod
    def configured(cls, config: Config) -> "Tokenizer":
        """The config's tokenizer: tokenizer.path (from the repository, or the Hub), else the one trained here.

        Raises UserError where there is none.
        """
        path = config.tokenizer.path
        if path is not None:
            here = REPOSITORY / path
            return cls.load(here if here.exists() else path, revision_of(config, "tokenizer"))
        trained = tokenizer_dir(config)
        if not trained.is_dir():
            raise UserError(
                f"no tokenizer at {shown(trained)}; make one with python -m tokenizer.train_hf_tokenizer CONFIG (or "
                "train_sp_tokenizer), or set tokenizer.path"
            )
        return cls.load(trained)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[dict[str, bytes], str, bool]]:
        return Tokenizer, (self.files, self.where, self.gigatoken)

    @property
    def fast(self) -> str:
        """One line for the user: which engine encodes batches, and why not a faster one.

        Raises UserError where gigatoken is used and found to give other ids.
        """
        return self.engine.fast

    @property
    def bos_id(self) -> int | None:
        """What begins a text; None where the tokenizer has none."""
        return self.engine.roles.get("bos")

    @property
    def eos_id(self) -> int | None:
        """What ends a text; None where the tokenizer has none."""
        return self.engine.roles.get("eos")

    @property
    def pad_id(self) -> int | None:
        """None where the tokenizer has none: padding is a mask's business, and EOS is never taken for it."""
        return self.engine.roles.get("pad")

    @property
    def unk_id(self) -> int | None:
        """What stands for what is not in the vocabulary; None where the tokenizer has none."""
        return self.engine.roles.get("unk")

    @property
    def mask_id(self) -> int | None:
        """What hides a token from a masked model; None where the tokenizer has none."""
        return self.engine.roles.get("mask")

    @property
    def cls_id(self) -> int | None:
        """What begins a row of a masked model; None where the tokenizer has none."""
        return self.engine.roles.get("cls")

    @property
    def sep_id(self) -> int | None:
        """What ends a row of a masked model; None where the tokenizer has none."""
        return self.engine.roles.get("sep")

    def token(self, index: int) -> str:
        """How the vocabulary writes token `index`; empty where it has none."""
        return self.engine.token(index)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return self.engine.encode(text)

    def encode_joined(self, texts: Texts | Sequence[str], end: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts in a row: (ids (tokens,) uint16 or uint32, lengths (texts,) int64). As `encode`, faster.

        end: an id to put after each text, counted in its length.
        Raises fast_bpe.Difference, a UserError, where gigatoken gives other ids than the tokenizer's own engine.
        """
        texts = texts if isinstance(texts, Texts) else Texts(list(texts))
        if not len(texts):
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        return self.engine.encode_joined(texts, end)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, uint32."""
        ids, lengths = self.encode_joined(texts)
        return rows(ids.astype(np.uint32, copy=False), lengths)

    def encode_with_offsets_batch(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text its ids, uint32, and for each the place after the last character that it stands for, int64.

        The ends of `encode_with_offsets`, faster.
        """
        return self.engine.encode_with_ends(texts) if texts else []

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Ids, and for each the characters [start, end) of the text that it stands for.

        Tokens that are bytes of one character each stand for that whole character.
        """
        return self.engine.encode_with_offsets(text)

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = True) -> str:
        """Text of the ids. Ids past the vocabulary (of a padded embedding) are left out."""
        return self.engine.decode([int(i) for i in ids], skip_special)

    @property
    def starts_word(self) -> np.ndarray:
        """(vocab_size,) bool: tokens that begin a word, for masking whole words. Punctuation is a word by itself."""
        if self._starts_word is None:
            self._starts_word = self.engine.starts_word()
        return self._starts_word

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that lays out a chat."""
        if "chat_template.jinja" in self.files:
            return self.files["chat_template.jinja"].decode()
        template: Any = json.loads(self.files.get("tokenizer_config.json", b"{}")).get("chat_template")
        if isinstance(template, list):
            return next((t["template"] for t in template if t["name"] == "default"), None)
        return template

    def encode_chat(self, messages: list[dict[str, Any]]) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a chat laid out by the template, and the spans [start, end) of tokens that are scored.

        messages: of {"role", "content"}. Scored is what the assistant says, with what ends its turn. Special strings
        that the template writes become special tokens (those in the contents too: the template cannot tell).
        Raises UserError where the tokenizer has no template, or where the template shows assistant turns in no way
        that can be found again.
        """
        from tokenizer import chat

        if self.chat_template is None:
            raise UserError(f"{self.where} has no chat template; put a chat_template.jinja beside it")
        strings = {f"{role}_token": self.token(index) for role, index in self.engine.roles.items()}
        text, spans = chat.render(self.chat_template, messages, strings)
        ids, offsets = self.engine.encode_with_offsets(text, specials=True)
        return ids, chat.token_spans(offsets, spans)

    def special_strings(self) -> tuple[dict[str, str], list[str]]:
        """(role -> string, strings of the special tokens without a role)."""
        roles = {role: self.token(index) for role, index in self.engine.roles.items()}
        return roles, [self.token(i) for i in self.special_ids if self.token(i) not in roles.values()]

    def save(self, directory: str | Path) -> str | None:
        """Write the tokenizer's files into `directory`, byte for byte, and what transformers needs beside them.

        That is a tokenizer_config.json; for a SentencePiece model also a tokenizer.json, where it can be converted.
        Returns why not, where it cannot.
        """
        from tokenizer import convert_sp

        files, problem = dict(self.files), None
        if isinstance(self.engine, SentencePieceEngine) and "tokenizer.json" not in files:
            files, problem = convert_sp.complete(files, *self.special_strings())
        elif "tokenizer_config.json" not in files:
            # Without one transformers chooses a class by the model beside it, which may build another tokenizer.
            files |= convert_sp.transformers_files(*self.special_strings())
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with atomic_write(Path(directory) / name) as file:
                file.write(content)
        return problem
