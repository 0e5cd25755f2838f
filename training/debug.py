"""One batch, seen from all sides, and then overfitted: the first thing to try with a new model, objective or data set.

the first batch -> shapes, text, what is scored, loss against chance, gradient norms -> a loss that falls, or an error
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from training.measures import real_tokens
from training.module import TrainingModule
from training.samples import Decodes
from utils.messages import UserError, info

STEPS = 50
WARMUP = 5
ROWS = 2  # shown as text
# The loss of the one batch must fall at least by this share of itself.
LEAST_FALL = 0.1


class OneBatch(IterableDataset):
    """The same micro-batches at every step."""

    def __init__(self, microbatches: list[dict[str, Tensor]]) -> None:
        self.microbatches = microbatches

    def __iter__(self) -> Iterator[list[dict[str, Tensor]]]:
        while True:
            yield self.microbatches


class Watch(L.Callback):
    """Notes the loss of every step, and prints the gradient norms of the first, before clipping.

    microbatches: of a step
    """

    def __init__(self, microbatches: int) -> None:
        self.microbatches = microbatches
        self.backwards = 0
        self.losses: list[float] = []

    def on_after_backward(self, trainer: L.Trainer, training: TrainingModule) -> None:
        """After the first step's last backward pass its gradient is complete."""
        self.backwards += 1
        if self.backwards == self.microbatches:
            info("\ngradient norms\n" + as_columns(gradient_norms(training.model)))

    def on_train_batch_end(self, trainer: L.Trainer, training: TrainingModule, *_: Any) -> None:
        """Notes the step's loss, and tells every tenth."""
        sums = training.sums.read()
        self.losses.append(sums["nats"] / max(1, sums["targets"]))
        if len(self.losses) % 10 == 1 or training.steps == STEPS:
            info(f"overfitting this batch: step {training.steps} of {STEPS}, loss {self.losses[-1]:.4f}")


def show_batch(microbatches: list[dict[str, Tensor]], tokenizer: Decodes) -> None:
    """Prints shapes and decoded rows."""
    batch = microbatches[0]
    info(f"one step of this device: {len(microbatches)} micro-batches; the first of them:")
    info(as_columns([(name, f"{tuple(tensor.shape)} {str(tensor.dtype)[6:]}") for name, tensor in batch.items()]))
    scored = (batch["targets"] != -100).sum().item()
    info(f"  scored targets: {scored} of {batch['targets'].numel()}")
    real = real_tokens(batch)
    for row in range(min(ROWS, len(batch["targets"]))):
        inputs = batch["input_ids"][row]
        if real is not None:
            inputs = inputs[real[row]]
        info(f"\nrow {row}, input:\n{tokenizer.decode(inputs.tolist(), skip_special=False)}")
        info(f"\nrow {row}, targets:\n{marked(batch['targets'][row], tokenizer)}")


def marked(targets: Tensor, tokenizer: Decodes) -> str:
    """targets (T,) -> their text, with what is not scored (a prompt, padding) as ‹12 not scored›"""
    pieces = []
    scored = targets != -100
    borders = [0, *((scored[1:] != scored[:-1]).nonzero().flatten() + 1).tolist(), len(targets)]
    for begin, end in zip(borders[:-1], borders[1:], strict=True):
        part = targets[begin:end]
        is_scored = bool(scored[begin])
        pieces.append(
            tokenizer.decode(part.tolist(), skip_special=False) if is_scored else f"‹{end - begin} not scored›"
        )
    return "".join(pieces)


def gradient_norms(model: nn.Module) -> list[tuple[str, str]]:
    """The norm of the gradient of each layer, in the model's order."""
    layers: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        layer = re.match(r".*?\.\d+(?=\.)|[^.]+(?:\.[^.]+)?", name)
        gradients = layers.setdefault(layer[0] if layer else name, [])
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    return [
        (name, f"{torch.nn.utils.get_total_norm(gradients).item():.3e}" if gradients else "no gradient")
        for name, gradients in layers.items()
    ]


def as_columns(rows: list[tuple[str, str]]) -> str:
    """Two columns of text."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in rows)


def warmed_constant(step: int, history: Any) -> float:
    """The schedule of the overfitting."""
    return min(1.0, step / WARMUP)


def overfit(trainer: L.Trainer, training: TrainingModule, watch: Watch, microbatches: list[dict[str, Tensor]]) -> None:
    """trainer: with `watch` among its callbacks.

    Raises:
        UserError: the loss does not fall
    """
    trainer.fit_loop.epoch_loop.max_steps = STEPS
    loader = torch.utils.data.DataLoader(OneBatch(microbatches), batch_size=None)
    trainer.fit(training, train_dataloaders=loader)
    first, last = watch.losses[0], watch.losses[-1]
    chance = math.log(training.model.facts.vocab_size)
    info(f"\nloss before the first step: {first:.4f}; by chance it would be ln(vocabulary) = {chance:.4f}")
    if not last < first * (1 - LEAST_FALL):
        raise UserError(
            f"--debug: the loss of one batch went from {first:.4f} to {last:.4f} in {STEPS} steps; it should fall by "
            f"{LEAST_FALL:.0%} at least. Look at the targets above, at the gradient norms (a layer without one?) and "
            "at optimizer.lr"
        )
    info(f"it falls to {last:.4f} in {STEPS} steps: model, loss and gradients work together")
