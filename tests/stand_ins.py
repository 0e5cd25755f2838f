"""The smallest model, data and tokenizer that the training room can be tested with."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from configs.schema import Config
from models.interface import Loss, ModelFacts

VOCABULARY, LENGTH = 32, 12


class TinyModel(nn.Module):
    """Predicts the next token from this one and the mean of those before, with dropout and a tied head."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.facts = ModelFacts(vocab_size=VOCABULARY)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.mixing = nn.Linear(32, 16)
        self.norm = nn.LayerNorm(16)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embedding(batch["input_ids"])
        before = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        x = self.norm(x + self.dropout(torch.tanh(self.mixing(torch.cat([x, before], -1)))))
        return self.head(x)

    def loss(self, batch: dict[str, Tensor]) -> Loss:
        logits, targets = self.logits(batch).float(), batch["targets"]
        nats = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
        return Loss(nats, (targets != -100).sum(), (logits.argmax(-1) == targets).sum())


def windows(places: range) -> dict[str, Tensor]:
    """Rows of a pattern, of different lengths; a function of the place alone."""
    rows, targets = [], []
    for place in places:
        chance = torch.Generator().manual_seed(place % 40)
        start, stride = torch.randint(1, VOCABULARY, (2,), generator=chance).tolist()
        row = (start + stride * torch.arange(LENGTH + 1)) % VOCABULARY
        length = 3 + place % (LENGTH - 2)
        rows.append(row[:-1])
        targets.append(torch.where(torch.arange(LENGTH) < length, row[1:], -100))
    return {"input_ids": torch.stack(rows), "targets": torch.stack(targets)}


class Steps(IterableDataset):
    def __init__(self, data: "TinyData") -> None:
        self.data = data

    def __iter__(self) -> Iterator[list[dict[str, Tensor]]]:
        rank, ranks = self.data.rank()
        size, micro, step = self.data.size, self.data.micro, self.data.start_step
        share = size // ranks
        while True:
            begin = step * size + rank * share
            yield [windows(range(at, at + micro)) for at in range(begin, begin + share, micro)]
            step += 1


class TinyData(L.LightningDataModule):
    """Steps of windows without end, and validation sets of 12 windows each."""

    def __init__(self, config: Config, sets: int = 1) -> None:
        super().__init__()
        self.size = config.trainer.global_batch_size
        self.micro = config.trainer.micro_batch_size or self.size
        self.sets = sets
        self.start_step = 0

    def rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> Any:
        return DataLoader(Steps(self), batch_size=None)

    def val_dataloader(self) -> Any:
        batches = [windows(range(at, at + 4)) for at in (1000, 1004, 1008)]
        return [DataLoader(batches, batch_size=None) for _ in range(self.sets)]


class TinyTokenizer:
    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        return " ".join(map(str, ids))
