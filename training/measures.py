"""Losses on the device -> sums on the host, and lines of metrics.jsonl.

The step only appends what it has computed. Nothing waits for the device until a sum is read: every `logging.every`
steps, and before validations and checkpoints.
"""

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.interface import Loss
from training.ranks import added_over_ranks
from utils.files import make_folder, user_errors

Batch = dict[str, Tensor]

# What ranks count each for themselves; the rest is the same on all of them.
BY_RANK = ("nats", "targets", "correct", "tokens")
# Entries of a batch that the model never sees.
BESIDE_THE_MODEL = ("places", "prompt_ids", "prompt_mask", "index")
# Steps kept on the device at most before they are added up.
LONGEST_WAIT = 1000


class Sums:
    """Nats, scored targets, correct ones: added up over batches."""

    def __init__(self) -> None:
        self.pending: list[Loss] = []

    def add(self, loss: Loss) -> None:
        """Adds a batch, without waiting for the device."""
        self.pending.append(Loss(loss.nats.detach(), loss.tokens, loss.correct))

    def read(self) -> list[float]:
        """-> [nats, targets, correct], and begins anew"""
        pending, self.pending = self.pending, []
        return [math.fsum(column) for column in columns(pending)] if pending else [0.0, 0.0, 0.0]


class TrainingSums:
    """What training steps add up, and what went wrong in them."""

    def __init__(self) -> None:
        self.totals = dict.fromkeys(("nats", "targets", "correct", "tokens", "norm", "steps", "overflows"), 0.0)
        self.first_nonfinite: int | None = None  # step
        self.scored_nothing: int | None = None  # step
        self._losses: list[tuple[int, Loss, Tensor | int]] = []
        self._steps: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def add(self, step: int, loss: Loss, input_tokens: Tensor | int) -> None:
        """Of one micro-batch. input_tokens: unpadded ones."""
        self._losses.append((step, Loss(loss.nats.detach(), loss.tokens, loss.correct), input_tokens))

    def end_step(self, step: int, scored: Tensor, norm: Tensor, scale: Tensor | None) -> None:
        """
        scored: targets of the whole global batch
        norm: of the gradient, before clipping
        scale: of the loss, under float16: a gradient that is not finite is then an overflow, until the scale is used up
        """
        scale = torch.zeros_like(norm) if scale is None else scale.detach().clone()
        self._steps.append((step, scored, norm.detach(), scale))
        if len(self._steps) >= LONGEST_WAIT:
            self.fold()

    def fold(self) -> None:
        """Waits for the device and adds up, in the steps' order, so that it does not matter when it is called."""
        losses, self._losses = self._losses, []
        steps, self._steps = self._steps, []
        if not steps:
            return
        every_scored, norms, scales = columns([entry[1:] for entry in steps])
        scaled = {step: scale > 1 for (step, *_), scale in zip(steps, scales, strict=True)}
        inputs = columns([(torch.as_tensor(tokens),) for *_, tokens in losses])[0]
        for (step, *_), nats, targets, correct, tokens in zip(
            losses, *columns([loss for _, loss, _ in losses]), inputs, strict=True
        ):
            if not math.isfinite(nats):
                self._not_finite(step, scaled[step])
                nats, targets, correct = 0.0, 0.0, 0.0
            for name, value in (("nats", nats), ("targets", targets), ("correct", correct), ("tokens", tokens)):
                self.totals[name] += value
        for (step, *_), scored, norm in zip(steps, every_scored, norms, strict=True):
            self.totals["steps"] += 1
            if not scored and self.scored_nothing is None:
                self.scored_nothing = step
            if math.isfinite(norm):
                self.totals["norm"] += norm
            else:
                self._not_finite(step, scaled[step])
                self.totals["overflows"] += 1

    def _not_finite(self, step: int, overflowed: bool) -> None:
        if not overflowed:
            self.first_nonfinite = min(step, self.first_nonfinite or step)

    def over_ranks(self) -> dict[str, float]:
        """-> the totals of all ranks, for all that each rank counts for itself"""
        self.fold()
        added = added_over_ranks(torch.tensor([self.totals[name] for name in BY_RANK], dtype=torch.float64))
        return self.totals | dict(zip(BY_RANK, added.tolist(), strict=True))

    def read(self) -> dict[str, float]:
        """-> the totals of all ranks, and begins anew"""
        totals = self.over_ranks()
        self.totals = dict.fromkeys(self.totals, 0.0)
        return totals

    def restore(self, totals: dict[str, float], rank: int) -> None:
        """Goes on from what `over_ranks` gave: rank 0 takes over what all ranks had counted."""
        self.totals = totals if rank == 0 else totals | dict.fromkeys(BY_RANK, 0.0)


def columns(rows: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """Rows of () tensors -> columns of numbers; one copy from the device for each column."""
    return [torch.stack(column).double().tolist() for column in zip(*rows, strict=True)]


def real_tokens(batch: Batch) -> Tensor | None:
    """-> (B, T) bool, False where input_ids are only filled; None where they are nowhere, or nothing says so"""
    if "documents" in batch:
        return batch["documents"] >= 0
    mask = batch.get("attention_mask")
    return None if mask is None or mask.ndim > 2 else mask.bool()


def input_tokens(batch: Batch) -> Tensor | int:
    """Unpadded tokens that go into the model, of a decoder too: what `trainer.max_tokens` counts."""
    real = real_tokens(batch)
    read = batch["input_ids"].numel() if real is None else real.sum()
    return read + (batch["targets"] != -100).sum() if "decoder_input_ids" in batch else read


def model_inputs(batch: Batch) -> Batch:
    """The batch without what is not for the model's loss: which samples these are, and prompts to be continued."""
    return {name: tensor for name, tensor in batch.items() if name not in BESIDE_THE_MODEL}


def flops_per_token(model: nn.Module) -> int:
    """6 for every weight that is multiplied: 2 forward, 4 backward. Attention's own products are left out.

    An embedding is only looked up, unless it is the head too (https://arxiv.org/abs/2001.08361, section 2.1).
    """
    heads = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    looked_up = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and id(module.weight) not in heads
    }
    return 6 * sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in looked_up)


def scores_of(sums: Sequence[float]) -> dict[str, float]:
    """[nats, targets, correct] -> loss (nats a target), perplexity, accuracy, targets"""
    nats, targets, correct = sums
    if not targets:
        return {"loss": math.nan, "perplexity": math.nan, "accuracy": math.nan, "targets": 0}
    loss = nats / targets
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return {"loss": loss, "perplexity": perplexity, "accuracy": correct / targets, "targets": int(targets)}


class Logger(Protocol):
    """Another view of the metrics."""

    def write(self, line: dict[str, Any]) -> None:
        """line: as in metrics.jsonl"""

    def close(self) -> None:
        """Nothing more comes."""


class MetricsFile:
    """Appends lines to metrics.jsonl; a line is one write, so that a kill tears at most the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        make_folder(path.parent)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # so that a torn line stays alone

    def write(self, line: dict[str, Any]) -> None:
        """line: kind, step and numbers. Raises UserError where the disk is full."""
        text = json.dumps({key: _finite(value) for key, value in line.items()}) + "\n"
        with user_errors(self._path):
            os.write(self._descriptor, text.encode())

    def close(self) -> None:
        """Syncs the file to the disk."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Clock:
    """Seconds of a run, those of its earlier lives included; and seconds of training alone, for the throughput."""

    def __init__(self, before: float = 0.0, in_window: float = 0.0) -> None:
        self._start = time.monotonic() - before
        self._window = time.monotonic() - in_window

    @property
    def seconds(self) -> float:
        """Since the run began, its earlier lives included."""
        return time.monotonic() - self._start

    @property
    def in_window(self) -> float:
        """Seconds since the last call of `window`, pauses apart."""
        return time.monotonic() - self._window

    def window(self) -> float:
        """The same, and begins a new one."""
        now = time.monotonic()
        seconds, self._window = now - self._window, now
        return seconds

    def pause(self, seconds: float) -> None:
        """Takes out time that went into something else (validation, checkpoints)."""
        self._window += seconds
