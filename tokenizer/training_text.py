"""A config -> the text that a tokenizer is trained on: pieces of documents, up to a stated number of bytes.

Where the training split is larger than that, documents are taken evenly from all of it. Nothing is held but a piece;
what trainers keep (a table of distinct words) is bounded by the budget.
"""

from collections.abc import Iterator

from configs.schema import Config
from corpus.documents import estimated_bytes, read_documents
from corpus.fields import texts_of
from corpus.splitting import place_of
from utils.messages import Meter

# Characters of a piece at most: trainers take time quadratic in a word, and a text without spaces is one word.
LONGEST_PIECE = 4000


class TrainingText:
    """Iterate once: it counts what it has given."""

    def __init__(self, config: Config, meter: Meter | None = None, by_line: bool = False) -> None:
        """meter: is advanced by bytes. by_line: pieces are single lines without their ends, and never empty."""
        self.config, self.meter, self.by_line = config, meter, by_line
        self.budget = config.tokenizer.training_bytes
        whole = estimated_bytes(config, "train")
        # The share of the documents that is taken; all of them where nobody knows how many there are.
        self.share = 1.0 if whole is None or whole <= self.budget else self.budget / whole
        self.n_bytes = self.documents = 0

    def __iter__(self) -> Iterator[str]:
        yield from self._pieces()
        if self.meter is not None:  # the trainers do not say how far they are
            self.meter.total = self.n_bytes
            self.meter.update("learning the vocabulary")

    def _pieces(self) -> Iterator[str]:
        for number, document in enumerate(read_documents(self.config, "train")):
            if self.share < 1.0 and place_of(number) >= self.share:
                continue
            self.documents += 1
            for text in texts_of(document.fields):
                for piece in pieces(text, self.by_line):
                    size = len(piece.encode())
                    if self.n_bytes + size > self.budget:
                        return
                    self.n_bytes += size
                    if self.meter is not None:
                        self.meter.advance(size)
                    yield piece


def pieces(text: str, by_line: bool = False, longest: int = LONGEST_PIECE) -> Iterator[str]:
    """Cuts a text where a space or newline begins, or, in a longer word, anywhere; nothing is lost but empty lines.

    by_line: also at every newline and tab, which are left out.
    """
    if by_line:
        for line in text.replace("\t", "\n").split("\n"):
            if line:
                yield from pieces(line, longest=longest)
        return
    start = 0
    while len(text) - start > longest:
        cut = max(text.rfind(" ", start + 1, start + longest), text.rfind("\n", start + 1, start + longest))
        cut = cut if cut > start else start + longest
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]
