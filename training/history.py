"""What follows from the validations so far: which was best, and whether to go on. Pure functions of the history.

history: one entry a validation, in order: {"step": 500, "monitor": 3.21, "validation": 3.21, "dev_b": 3.5}
monitor: the metric that `checkpoints.monitor` names; lower is better. The other keys are losses of named sets.
"""

import math
from collections.abc import Sequence
from typing import Any

Entry = dict[str, Any]


def is_best(history: Sequence[Entry]) -> bool:
    """Whether the last validation is better than all before it."""
    return _value(history[-1]) < min(map(_value, history[:-1]), default=math.inf)


def best(history: Sequence[Entry]) -> Entry | None:
    """The first of the best; None where there is no number at all."""
    return min((entry for entry in history if _value(entry) < math.inf), key=_value, default=None)


def _value(entry: Entry) -> float:
    """What is not a number is worse than any."""
    return math.inf if math.isnan(entry["monitor"]) else entry["monitor"]


def patience_is_over(history: Sequence[Entry], patience: int | None, min_delta: float) -> bool:
    """Whether the last `patience` validations were no improvement by more than min_delta on the best before them."""
    if patience is None:
        return False
    record, since = math.inf, 0
    for entry in history:
        if entry["monitor"] < record - min_delta:
            record, since = entry["monitor"], 0
        else:
            since += 1
    return since >= patience


def validated_at(history: Sequence[Entry], step: int) -> bool:
    """Whether the weights after this step were validated."""
    return any(entry["step"] == step for entry in history)


def validation_is_due(step: int, total: int, every: int | None) -> bool:
    """After which steps there is a validation: every so many, and the last."""
    return step == total or (every is not None and step % every == 0)
