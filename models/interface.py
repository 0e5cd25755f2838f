"""What the rest of Liftoff asks of a model, whichever of the three ways it came in.

A batch of tensors gives a Loss (training, scoring); prompts give a Stepper (generation, one token at a time)
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


class Loss(NamedTuple):
    """Kept as sums and a count, so that averages over batches and devices come out exact."""

    nats: Tensor  # () float32, with gradient: -ln p(target), summed over scored targets
    tokens: Tensor  # () int64: scored targets
    correct: Tensor  # () int64: scored targets that were the most likely token


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokenizer that a model's config should know; None: the tokenizer has no such token."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unk: int | None = None
    mask: int | None = None
    cls: int | None = None
    sep: int | None = None


def check_window(window: int | None, positions: int | None) -> None:
    """Raises ValueError where windows are longer than what a model has positions for (None: any, not known)."""
    if window is not None and positions is not None and window > positions:
        raise ValueError(f"data.max_seq_len={window} is longer than the model's {positions} positions")


def padded_vocab(tokens: int) -> int:
    """Rows of the embedding for so many tokens: the next multiple of 64, which matrix products are fastest with."""
    return -(-tokens // 64) * 64


@dataclass(frozen=True)
class ModelFacts:
    """What batches need to know of a model."""

    max_positions: int | None = None  # longest window; None: any
    takes_attention_mask: bool = True  # False: rows are filled on the right only, where causality hides them
    encoder_decoder: bool = False
    causal: bool = True  # position t sees no later position
    decoder_start_id: int | None = None  # encoder-decoders
    vocab_size: int = 0  # rows of the embedding, padding to a multiple of 64 included


class Stepper(Protocol):
    """A model in the middle of writing: gives the logits of the next token for each row."""

    def start(self) -> Tensor:
        """Reads the prompts. -> logits of the first new token (B, V), float32"""

    def advance(self, tokens: Tensor) -> Tensor:
        """tokens (B,): what was chosen. -> logits of the next (B, V), float32"""

    def reorder(self, rows: Tensor) -> None:
        """rows (B',): row i goes on from what was row rows[i] (beams, finished rows dropped)."""


class TrainableModel(Protocol):
    """An nn.Module with these methods: what `models.build.build_model` returns."""

    facts: ModelFacts

    def loss(self, batch: dict[str, Tensor]) -> Loss:
        """batch: input_ids (B, T), targets (B, T), and what else the objective gave; see contracts of a batch."""

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """-> (B, T, V)"""

    def stepper(self, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> Stepper:
        """prompt_ids, prompt_mask (B, T): padded on the left, mask 1 at real tokens (encoder-decoders: the source)."""
