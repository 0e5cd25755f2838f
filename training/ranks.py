"""What several ranks (processes) agree on. With one rank nothing here does anything."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from utils.messages import UserError


def several() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def added_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over ranks, on each of them, where it was."""
    if not several():
        return tensor
    added = tensor.to(_meeting_place(), copy=True)
    dist.all_reduce(added)
    return added.to(tensor.device)


def largest_over_ranks(numbers: list[float]) -> list[float]:
    """The largest of each number over ranks, on each of them."""
    if not several():
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64, device=_meeting_place())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def _meeting_place() -> torch.device:
    """NCCL adds up tensors on GPUs only, gloo best on CPUs."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def gathered(value: Any) -> list[Any]:
    """What each rank has (anything that pickles), by rank, on each of them."""
    if not several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def by_rank_zero(function: Callable[[], Any]) -> Any:
    """What `function` returns on rank 0, on every rank. Its UserError too is raised on each, so that none waits."""
    if not several():
        return function()
    answer: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            answer = [function(), None]
        except UserError as error:
            answer = [None, str(error)]
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise UserError(answer[1])
    return answer[0]


def step_seed(seed: int, step: int, rank: int) -> int:
    """Of all chance inside the model at this step on this rank."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds what dropout on this device draws from. torch.manual_seed sees to every kind of device: 500 us a call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
