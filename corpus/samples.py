"""Documents of a test split, one by one -> what a model is prompted with, and the text that was right.

The right text is read from the raw documents again, because decoded tokens are not the text where a tokenizer
normalises or has unknown characters; only where the raw text is gone it is decoded, with a warning.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from corpus.shards import Shard, ShardSet
from utils.messages import UserError, warn


class Samples:
    """Sample i is document i of the split, in the order of its shards."""

    def __init__(
        self, shards: ShardSet, decode: Callable[[list[int]], str], raw: Callable[[], Iterator[tuple[str, str]]]
    ) -> None:
        """raw: -> prompt and reference of each document, in the same order, skipped ones left out."""
        if shards.kind == "text":
            raise UserError(
                "inference.generate=true needs documents with an answer: dataset.kind prompt_response, messages or "
                "pairs; to write on from plain text use generation.py"
            )
        self.shards, self.decode, self.raw = shards, decode, raw
        self._texts: list[tuple[str, str]] | None = None
        self._read_all = False

    def __len__(self) -> int:
        return self.shards.n_documents

    def prompt_ids(self, i: int) -> np.ndarray:
        """Tokens of the source, of the prompt, or of a chat up to its last answer."""
        shard, document = self._find(i)
        start, stop = shard.offsets[document], shard.offsets[document + 1]
        if self.shards.kind != "pairs":
            stop = start + self._last_span(i)[0]
        return shard.tokens[start:stop]

    def prompt_rows(
        self, indices: np.ndarray, room: int, begin: int | None, end: int | None, filling: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """-> tokens (B, S) int64, filled on the left, and 1 where they are tokens.

        room: tokens of a prompt at most. A source is cut at its end, as in training; a prompt keeps its end, which the
        answer follows. begin, end: ids put around it."""
        rows = []
        for i in indices:
            ids = self.prompt_ids(int(i)).tolist()
            kept = ids[:room] if self.shards.kind == "pairs" else ids[max(0, len(ids) - room) :]
            edged = [*([] if begin is None else [begin]), *kept, *([] if end is None else [end])]
            rows.append(edged or [filling])  # an empty prompt: a model must read something
        width = max(len(row) for row in rows)
        tokens = np.array([[filling] * (width - len(row)) + row for row in rows], np.int64)
        lengths = np.array([len(row) for row in rows])
        return tokens, (np.arange(width) >= width - lengths[:, None]).astype(np.int64)

    def prompt(self, i: int) -> str:
        """The same as text."""
        texts = self._raw_texts()
        return texts[i][0] if texts else self.decode(self.prompt_ids(i).tolist())

    def reference(self, i: int) -> str:
        """The target, the response, or the last answer of a chat."""
        texts = self._raw_texts()
        if texts:
            return texts[i][1]
        shard, document = self._find(i)
        if self.shards.kind == "pairs":
            ids = shard.target_tokens[shard.target_offsets[document] : shard.target_offsets[document + 1]]
        else:
            start, stop = self._last_span(i)
            ids = shard.tokens[shard.offsets[document] + start : shard.offsets[document] + stop]
        return self.decode(ids.tolist())

    def _find(self, i: int) -> tuple[Shard, int]:
        number = int(np.searchsorted(self.shards.first_document, i, side="right")) - 1
        return self.shards.shards[number], i - int(self.shards.first_document[number])

    def _last_span(self, i: int) -> tuple[int, int]:
        """Where the last span that is scored begins and ends in the document; at its end where there is none."""
        shard, document = self._find(i)
        first, last = shard.scored_offsets[document], shard.scored_offsets[document + 1]
        if first == last:
            length = int(shard.offsets[document + 1] - shard.offsets[document])
            return length, length
        return int(shard.scored[last - 1, 0]), int(shard.scored[last - 1, 1])

    def _raw_texts(self) -> list[tuple[str, str]] | None:
        if not self._read_all:
            self._read_all = True
            try:
                texts = list(islice(self.raw(), len(self) + 1))
            except (UserError, OSError) as error:
                texts, reason = [], str(error)
            else:
                reason = f"they hold {len(texts)} documents, the shards {len(self)}"
            if len(texts) == len(self):
                self._texts = texts
            else:
                warn(f"references are decoded from tokens, the raw documents cannot be used: {reason}")
        return self._texts
