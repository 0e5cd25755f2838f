"""Learning-rate schedules: update and history -> fraction of `optimizer.lr`.

Pure functions, so that a resumed run needs no state and a curve can be plotted without training. Updates count from 1.
A schedule of your own is a function with the same first four arguments, in any file: `schedule.name: mine.sawtooth`.

    update    the number of this update, 1 .. total
    history   the monitored validation loss after each validation so far (the one at step 0 is not among them)
    total     updates of the whole run
    warmup    updates of linear warm-up
"""

import math
from collections.abc import Sequence


def warmed_up(update: int, warmup: int) -> float:
    """A straight line from 0 (before the first update) to 1 (at update `warmup`), then 1."""
    return min(1.0, update / warmup) if warmup else 1.0


def decayed(update: int, total: int, warmup: int) -> float:
    """How far the decay has come: 0 at the end of the warm-up, 1 at the last update."""
    return min(1.0, max(0, update - warmup) / max(1, total - warmup))


def constant(update: int, history: Sequence[float], *, total: int, warmup: int) -> float:
    """Warm-up, then always 1."""
    return warmed_up(update, warmup)


def linear(update: int, history: Sequence[float], *, total: int, warmup: int, final_fraction: float = 0.0) -> float:
    """Warm-up, then a straight line down to `final_fraction` at the last update."""
    return warmed_up(update, warmup) * (1 - (1 - final_fraction) * decayed(update, total, warmup))


def cosine(update: int, history: Sequence[float], *, total: int, warmup: int, final_fraction: float = 0.1) -> float:
    """Warm-up, then half a cosine down to `final_fraction` at the last update (https://arxiv.org/abs/1608.03983)."""
    height = (1 + math.cos(math.pi * decayed(update, total, warmup))) / 2
    return warmed_up(update, warmup) * (final_fraction + (1 - final_fraction) * height)
