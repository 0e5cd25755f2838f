"""The first windows of each validation set -> what the model says there, in runs/<name>/samples.jsonl."""

import json
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as L
import torch
from torch import Tensor

from training.measures import real_tokens
from training.module import TrainingModule
from utils.files import user_errors


class Decodes(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        """ids -> text"""


class Samples(L.Callback):
    """At each validation: the input, what should be said, and the most likely token at each of those positions.

    Args:
        path: samples.jsonl
        names: of the validation sets
        count: windows of each set
    """

    def __init__(self, path: Path, tokenizer: Decodes, names: list[str], count: int) -> None:
        self.path = path
        self.tokenizer = tokenizer
        self.names = names
        self.count = count

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        training: TrainingModule,
        batch: dict[str, Tensor],
        index: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Rank 0 looks at its first batch."""
        if index or not self.count or not trainer.is_global_zero:
            return
        few = {name: rows[: self.count] for name, rows in batch.items()}
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            said = training.logits_of(few).argmax(-1)
        lines = [
            {"step": training.steps, "set": self.names[dataloader_idx], **sample}
            for sample in readable(few, said, self.tokenizer)
        ]
        with user_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def readable(batch: dict[str, Tensor], said: Tensor, tokenizer: Decodes) -> list[dict[str, Any]]:
    """said: (B, T) the model's tokens. -> for each row its input, its scored targets and what was said there"""
    samples = []
    real = real_tokens(batch)
    for row in range(len(said)):
        inputs = batch["input_ids"][row] if real is None else batch["input_ids"][row][real[row]]
        scored = batch["targets"][row] != -100
        texts = {"input": inputs, "target": batch["targets"][row][scored], "prediction": said[row][scored]}
        samples.append({name: tokenizer.decode(ids.tolist(), skip_special=False) for name, ids in texts.items()})
    return samples
