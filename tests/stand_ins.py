"""The smallest model, data and tokenizer that the training room can be tested with."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from configs.schema import Config
from model import LanguageModelTraining
from models.interface import Loss, ModelFacts
from optim.build import build_schedule
from training.launch import make_trainer
from training.loggers import FromLightning, make_loggers
from training.precision import Hardware, hardware
from training.recorder import Recorder
from training.run_state import RunState
from training.signals import Stopped
from training.step_end import StepEnd
from utils.messages import is_first_rank
from utils.run_directory import read_metrics

VOCABULARY, LENGTH = 32, 12


class TinyModel(nn.Module):
    """Predicts the next token from this one and the mean of those before, with dropout and a tied head."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.facts = ModelFacts(vocab_size=VOCABULARY)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        nn.init.normal_(self.embedding.weight, std=0.3)
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
        chance = torch.Generator().manual_seed(place % 97)
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

    def state_after(self, steps: int) -> None:
        return None

    def restore(self, state: None) -> None:
        assert state is None

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


def tiny_config(trainer: dict[str, Any] | None = None, **sections: Any) -> Config:
    """A run of 12 steps of 8 windows, validated every 4, saved every 3; sections override it key by key."""
    base: dict[str, dict[str, Any]] = {
        "trainer": {"max_steps": 12, "max_epochs": None, "global_batch_size": 8, "precision": "32-true"},
        "checkpoints": {"every": 3},
        "logging": {"every": 2, "tensorboard": False},
        "optimizer": {"name": "torch.optim.AdamW", "lr": 0.01},
        "schedule": {"name": "cosine", "warmup_steps": 2, "warmup_ratio": None},
    }
    base["trainer"] |= {"validate_every": 4, "accelerator": "cpu"} | (trainer or {})
    for name, values in sections.items():
        base[name] = base.get(name, {}) | values
    return Config.model_validate({"seed": 3, "name": "tiny", **base})


class TinyRun:
    """Everything that train.py puts together, around the tiny model and data. `fit` runs it."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        model: nn.Module | None = None,
        data: L.LightningDataModule | None = None,
        callbacks: Sequence[L.Callback] = (),
        keep_last: int = 3,
        on: Hardware | None = None,
    ) -> None:
        self.folder, self.config = folder, config
        total = config.trainer.max_steps
        self.data = data or TinyData(config)
        self.training = LanguageModelTraining(model or TinyModel(0.2), config, build_schedule(config.schedule, total))
        self.recorder = Recorder(
            config, folder / "metrics.jsonl", total, is_first_rank(), lambda step: make_loggers(config, folder, step)
        )
        state = RunState(folder / "checkpoints", keep_last, self.data, {"data": "tiny"})
        self.step_end = StepEnd(config, total, self.recorder, state)
        logger = FromLightning(self.recorder.write_logged)
        self.trainer = make_trainer(config, on or hardware(config.trainer), [*callbacks, self.step_end], logger)

    def fit(self) -> "TinyRun":
        self.trainer.fit(self.training, self.data)
        return self

    def lines(self) -> dict[tuple, dict[str, Any]]:
        """metrics.jsonl, the last of each, without what a clock says."""
        lines = {}
        for line in read_metrics(self.folder / "metrics.jsonl"):
            kept = {name: value for name, value in line.items() if name not in ("seconds", "tokens_per_second")}
            lines[line["kind"], line["step"], line.get("set")] = kept
        return lines


def main() -> None:
    """A run in a process of its own, to be killed: python -m tests.stand_ins FOLDER '{"trainer": {...}, ...}'"""
    torch.set_num_threads(1)
    sections = json.loads(sys.argv[2])
    pause, dropout = sections.pop("pause", 0.0), sections.pop("dropout", 0.2)
    config = tiny_config(**sections)
    slow = L.Callback()
    slow.on_train_batch_start = lambda *_: time.sleep(pause)
    run = TinyRun(Path(sys.argv[1]), config, model=TinyModel(dropout), callbacks=[slow])
    try:
        run.fit()
    except Stopped as stopped:
        sys.exit(128 + stopped.signum if is_first_rank() else 0)


if __name__ == "__main__":
    main()
