"""The `optimizer` and `schedule` sections of a config -> a torch optimizer and a function of the update."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import nn

from configs import schema
from optim.groups import parameter_groups
from utils.imports import check_arguments, import_object
from utils.messages import UserError

# (update, history) -> fraction of optimizer.lr; see optim/schedules.py
Schedule = Callable[[int, Sequence[float]], float]


def build_schedule(schedule: schema.Schedule, total: int) -> Schedule:
    """total: updates of the whole run, which the warm-up's ratio refers to.

    Raises:
        UserError: no such schedule, or an argument that it does not take
    """
    path = schedule.name if "." in schedule.name else f"optim.schedules.{schedule.name}"
    function = import_object(path, "schedule.name")
    warmup = schedule.warmup_steps
    if warmup is None:
        warmup = round((schedule.warmup_ratio or 0.0) * total)
    check_arguments(function, schedule.arguments, "schedule", given=("update", "history", "total", "warmup"))
    return partial(function, total=total, warmup=warmup, **schedule.arguments)


def build_optimizer(optimizer: schema.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """Any torch optimizer, with our groups; fused where it has such a version and the weights lie where that works.

    Raises:
        UserError: not an optimizer, arguments that it does not take, or one that cannot be used with a step like ours
    """
    kind = check_optimizer(optimizer)
    takes = inspect.signature(kind).parameters
    groups = parameter_groups(model, optimizer.weight_decay, optimizer.decay_embeddings)
    if not groups:
        raise UserError("model: no weight of it can be trained (requires_grad is false for all)")
    if "weight_decay" not in takes:
        groups = [{"params": group["params"]} for group in groups]
    arguments = {
        name: tuple(value) if isinstance(value, list) else value for name, value in optimizer.arguments.items()
    }
    try:
        if "fused" in takes and not {"fused", "foreach", "capturable", "differentiable"} & set(arguments):
            with suppress(RuntimeError):  # not for this optimizer, device or dtype
                return kind(groups, lr=optimizer.lr, fused=True, **arguments)
        return kind(groups, lr=optimizer.lr, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {optimizer.name} refuses its arguments: {error}") from error


def check_optimizer(optimizer: schema.Optimizer) -> type[torch.optim.Optimizer]:
    """The class that the config names, if it can be had and takes these arguments.

    Raises:
        UserError: see `build_optimizer`
    """
    kind = import_object(optimizer.name, "optimizer.name")
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise UserError(f"optimizer.name: {optimizer.name} is no torch.optim.Optimizer")
    takes = inspect.signature(kind).parameters
    if "weight_decay" not in takes and optimizer.weight_decay:
        raise UserError(f"optimizer.weight_decay: {optimizer.name} has none; set optimizer.weight_decay: 0")
    check_arguments(kind, optimizer.arguments, "optimizer", given=("params", "lr"))
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"optimizer.name: {optimizer.name} evaluates the loss several times a step; training_step does it once"
        )
    return kind
