"""Settings and the size of the data -> how long a run is, in steps, and how a step is cut into batches."""

import math
from dataclasses import dataclass
from fractions import Fraction

from configs import schema
from utils.messages import UserError


@dataclass(frozen=True)
class Length:
    """A run's length, in every unit that people ask for."""

    steps: int
    windows: int
    epochs: float
    tokens: int  # unpadded input tokens


@dataclass(frozen=True)
class BatchArithmetic:
    """global_batch_size = micro_batch_size x micro_batches x ranks."""

    global_batch_size: int
    micro_batch_size: int
    micro_batches: int
    ranks: int

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size} windows = {self.micro_batch_size} at once x {self.micro_batches} micro-batches "
            f"x {self.ranks} devices"
        )


def length_of(trainer: schema.Trainer, n_windows: int, tokens_per_epoch: int) -> Length:
    """Converts whichever of max_steps, max_epochs and max_tokens is set.

    n_windows, tokens_per_epoch: windows, and unpadded input tokens, in one pass over the training split
    """
    size = trainer.global_batch_size
    if trainer.max_steps is not None:
        steps = trainer.max_steps
    elif trainer.max_epochs is not None:
        # Fractions of the written number: 0.1 epochs of 30 windows are 3, not 3.0000000000000004.
        steps = math.ceil(Fraction(str(trainer.max_epochs)) * n_windows / size)
    elif trainer.max_tokens is not None:
        steps = math.ceil(Fraction(trainer.max_tokens, tokens_per_epoch) * n_windows / size)
    else:
        raise UserError("trainer: set one of max_steps, max_epochs and max_tokens")
    epochs = Fraction(steps * size, n_windows)
    return Length(steps, steps * size, float(epochs), round(epochs * tokens_per_epoch))


def batch_arithmetic(trainer: schema.Trainer, ranks: int) -> BatchArithmetic:
    """ranks: devices x nodes.

    Raises:
        UserError: the batch does not divide
    """
    share, rest = divmod(trainer.global_batch_size, ranks)
    if rest:
        raise UserError(
            f"trainer.global_batch_size={trainer.global_batch_size} must be divisible by the devices, {ranks} "
            f"(trainer.devices x trainer.num_nodes)"
        )
    micro = trainer.micro_batch_size or share
    if share % micro:
        raise UserError(
            f"trainer.global_batch_size={trainer.global_batch_size} must be divisible by micro_batch_size x devices = "
            f"{micro} x {ranks}"
        )
    return BatchArithmetic(trainer.global_batch_size, micro, share // micro, ranks)


def seconds_of(duration: str) -> float:
    """'DD:HH:MM:SS' -> seconds."""
    parts = duration.split(":")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        raise UserError(f"trainer.max_time: '{duration}' is not DD:HH:MM:SS, such as 00:08:00:00 for eight hours")
    days, hours, minutes, seconds = map(int, parts)
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
