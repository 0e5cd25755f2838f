"""Documents -> their tokens, and which of them are scored: the part of tokenising that worker processes do.

A document's tokens depend on the document and the settings alone, so it makes no difference which process encodes it,
and with which others.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from configs.schema import Config
from corpus.measuring import measured
from corpus.shards import Skipped, Tokens, dtype_for
from tokenizer.batches import Texts
from tokenizer.fast_bpe import Difference
from tokenizer.tokenizer import Tokenizer
from utils.messages import UserError

NO_SEPARATOR = "no separator"
NO_CHAT = "refused by the chat template"


class Documents(NamedTuple):
    """Documents on their way, by columns."""

    addresses: np.ndarray  # (documents,) int64: where each stands in its source; increasing
    fields: dict[str, Any]  # by name, what each says: Texts; of messages, a list
    n_bytes: np.ndarray  # (documents,) int64: UTF-8 bytes of all its text


class Piece(NamedTuple):
    """One of them."""

    address: int
    fields: dict[str, Any]
    n_bytes: int


def in_columns(pieces: Sequence[Piece]) -> Documents:
    """Documents one by one as columns."""
    columns = {name: [piece.fields[name] for piece in pieces] for name in (pieces[0].fields if pieces else {})}
    return Documents(
        np.array([piece.address for piece in pieces], np.int64),
        {name: values if name == "messages" else Texts(values) for name, values in columns.items()},
        np.array([piece.n_bytes for piece in pieces], np.int64),
    )


@dataclass(frozen=True)
class Layout:
    """How a document becomes tokens; the settings of the same names in `tokenize` and `dataset`."""

    kind: str
    document_end: str
    separator: str | None
    missing_separator: str
    prepend: str
    bad_documents: str

    def settings(self) -> dict[str, str | None]:
        """By their names in the config."""
        own = asdict(self)
        return {"dataset.kind": own.pop("kind"), **{f"tokenize.{name}": value for name, value in own.items()}}


def layout_of(config: Config) -> Layout:
    """The settings of a config."""
    tokenize = config.tokenize
    return Layout(
        config.dataset.kind, tokenize.document_end, tokenize.separator, tokenize.missing_separator, tokenize.prepend,
        tokenize.bad_documents,
    )  # fmt: skip


class Refused(Exception):
    """A document that cannot be used. The text: why, as it is counted."""


def sides(fields: dict, layout: Layout) -> tuple[str, str]:
    """-> what is not scored (prompt, source) and what is (text, response, target). Raises Refused without separator."""
    if layout.kind == "text":
        return "", layout.prepend + fields["text"]
    if layout.kind == "pairs":
        return layout.prepend + fields["source"], fields["target"]
    if layout.separator is None:
        return layout.prepend + fields["prompt"], fields["response"]
    prompt, found, response = fields["text"].partition(layout.separator)
    if not found:
        raise Refused(NO_SEPARATOR)
    return layout.prepend + prompt + found, response


class Encoder:
    """Encodes batches of documents. Pickles, so that it can be sent to worker processes."""

    def __init__(self, tokenizer: Tokenizer, layout: Layout) -> None:
        """Raises UserError where the tokenizer has no EOS to end documents with, or settings contradict the kind."""
        self.tokenizer, self.layout = tokenizer, layout
        if layout.separator is not None and layout.kind != "prompt_response":
            raise UserError(f"tokenize.separator needs dataset.kind=prompt_response, not {layout.kind}")
        if layout.separator == "":
            raise UserError("tokenize.separator is empty; leave it out, or name what a prompt ends with")
        if layout.prepend and layout.kind == "messages":
            raise UserError(
                "tokenize.prepend cannot be put before a chat; add a message with the role system to the data"
            )
        self.dtype = dtype_for(tokenizer.vocab_size)
        self.end = np.empty(0, np.uint32)
        if layout.document_end == "eos":
            if tokenizer.eos_id is None:
                raise UserError(
                    "tokenize.document_end=eos, but the tokenizer has no EOS token; use another tokenizer, or "
                    "tokenize.document_end=none"
                )
            self.end = np.array([tokenizer.eos_id], np.uint32)

    def __call__(self, documents: Documents, where: Callable[[int], str]) -> Tokens:
        """where: address -> "file:line", for messages.

        Raises UserError at a document that cannot be used, unless such documents are to be skipped."""
        kept, skipped = documents, []
        try:
            if self.layout.kind in ("text", "pairs"):
                tokens, scored = self._whole_texts(documents)
            else:
                kept, prepared, skipped = self._prepared(documents, where)
                scored = Texts([text for _, text in prepared])
                tokens = self._messages(prepared) if self.layout.kind == "messages" else self._prompt_response(prepared)
        except Difference as difference:
            if difference.index is None:
                raise
            raise UserError(f"{where(int(kept.addresses[difference.index]))}: {difference}") from None
        tokens = tokens._replace(
            addresses=kept.addresses,
            n_bytes=kept.n_bytes,
            text=measured(scored),
            skipped=tuple(skipped),
        )
        for ids in (tokens.tokens, tokens.target_tokens):
            if ids is not None and ids.size and ids.max() >= self.tokenizer.vocab_size:
                raise UserError(
                    f"the tokenizer gives the id {ids.max()}, beyond its vocabulary of {self.tokenizer.vocab_size}"
                )
        return tokens.as_type(self.dtype)

    def _whole_texts(self, documents: Documents) -> tuple[Tokens, Texts]:
        """-> tokens of texts or of pairs, and what is scored of them"""
        fields, nothing = documents.fields, Texts([])
        if self.layout.kind == "pairs":
            scored = fields.get("target", nothing)
            target = self._whole(scored)
            source = self._whole(self._prepended(fields.get("source", nothing)))
            return source._replace(target_tokens=target.tokens, target_lengths=target.lengths), scored
        scored = self._prepended(fields.get("text", nothing))
        return self._whole(scored), scored

    def _prepended(self, texts: Texts) -> Texts:
        before = self.layout.prepend
        return Texts([before + text for text in texts.strings]) if before else texts

    def _prepared(
        self, documents: Documents, where: Callable[[int], str]
    ) -> tuple[Documents, list[tuple], list[Skipped]]:
        """-> the documents that can be used; of each what is not scored (of a chat: ids and spans), and what is, as
        text; those that cannot be used"""
        usable, prepared, skipped = [], [], []
        columns = {
            name: values.strings if isinstance(values, Texts) else values for name, values in documents.fields.items()
        }
        for i, (address, n_bytes) in enumerate(
            zip(documents.addresses.tolist(), documents.n_bytes.tolist(), strict=True)
        ):
            fields = {name: values[i] for name, values in columns.items()}
            try:
                is_chat = self.layout.kind == "messages"
                prepared.append(self._chat(fields, address, where) if is_chat else sides(fields, self.layout))
                usable.append(Piece(address, fields, n_bytes))
            except Refused as refusal:
                skipped.append(Skipped(address, self._skip(str(refusal), where, address), "", n_bytes))
        return in_columns(usable), prepared, skipped

    def _chat(self, fields: dict[str, Any], address: int, where: Callable[[int], str]) -> tuple[Any, str]:
        """-> (ids, spans that are scored), what is scored as text"""
        messages = fields["messages"]
        try:
            encoded = self.tokenizer.encode_chat(messages)
        except UserError as error:
            if self.tokenizer.chat_template is None or self.layout.bad_documents == "stop":
                raise UserError(f"{where(address)}: {error}") from None
            raise Refused(NO_CHAT) from None
        return encoded, "\n".join(message["content"] for message in messages if message["role"] == "assistant")

    def _skip(self, reason: str, where: Callable[[int], str], address: int) -> str:
        if reason == NO_SEPARATOR and self.layout.missing_separator == "stop":
            raise UserError(
                f"{where(address)}: no separator {self.layout.separator!r} in the text; "
                "tokenize.missing_separator=skip leaves such documents out"
            )
        if reason != NO_SEPARATOR and self.layout.bad_documents == "stop":
            raise UserError(f"{where(address)}: {reason}; tokenize.bad_documents=skip leaves such documents out")
        return reason

    def _whole(self, texts: Texts) -> Tokens:
        return _run(*self.tokenizer.encode_joined(texts, int(self.end[0]) if len(self.end) else None))

    def _prompt_response(self, texts: list[tuple[str, str]]) -> Tokens:
        """Encoded as one text and divided after: a token across the border belongs to the response."""
        parts, spans = [], []
        encoded = self.tokenizer.encode_with_offsets_batch([prompt + response for prompt, response in texts])
        for (prompt, _), (ids, ends) in zip(texts, encoded, strict=True):
            beyond = ends > len(prompt)
            border = int(np.argmax(beyond)) if beyond.any() else len(ids)
            parts += [ids, self.end]
            length = len(ids) + len(self.end)
            spans.append([(border, length)] if length > border else [])
        return _with_spans(_joined(parts, 2), spans)

    def _messages(self, chats: list[tuple[tuple, str]]) -> Tokens:
        parts, spans = [], []
        for (ids, scored), _ in chats:
            # A template that ends the last turn with EOS has ended the document.
            end = self.end if not len(ids) or list(ids[-1:]) != self.end.tolist() else self.end[:0]
            parts += [np.array(ids, np.uint32), end]
            spans.append(_merged([*scored, *([(len(ids), len(ids) + 1)] if len(end) else [])]))
        return _with_spans(_joined(parts, 2), spans)


def _run(tokens: np.ndarray, lengths: np.ndarray) -> Tokens:
    """The rest is filled in by the caller."""
    nothing = np.empty(0, np.int64)
    return Tokens(tokens, lengths, nothing, nothing, np.empty((0, 3), np.int64))


def _joined(parts: list[np.ndarray], each: int) -> Tokens:
    """Arrays of ids, `each` of them a document -> one run of tokens."""
    lengths = np.array([len(part) for part in parts], np.int64).reshape(-1, each).sum(1)
    return _run(np.concatenate(parts) if parts else np.empty(0, np.uint32), lengths)


def _with_spans(tokens: Tokens, spans: list[list[tuple[int, int]]]) -> Tokens:
    rows = np.array([span for of_one in spans for span in of_one], np.int32).reshape(-1, 2)
    return tokens._replace(scored=rows, scored_lengths=np.array([len(of_one) for of_one in spans], np.int64))


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, without empty ones, those that touch made one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged
