"""A function from numbers to batches -> an iterable of them for Lightning, made in this process or by others."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


class _Items(Dataset):
    def __init__(self, items: Callable[[range], Iterable[Any]], n: int) -> None:
        self.items, self.n = items, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, number: int) -> Any:
        return next(iter(self.items(range(number, number + 1))))


class Loader:
    """Items start, …, stop - 1, each made from its number alone. It has a length, so Lightning fetches none ahead.

    items: numbers -> theirs, `at_once` of them together (from one of its multiples to the next) unless worker processes
    take turns at them. On a GPU they come in pinned memory, from which they are copied while it computes.
    """

    def __init__(
        self, items: Callable[[range], Iterable[Any]], start: int, stop: int, num_workers: int, at_once: int = 1,
        pinned: bool = False,
    ) -> None:  # fmt: skip
        self.items, self.start, self.stop, self.num_workers = items, start, stop, num_workers
        self.at_once, self.pinned = at_once, pinned

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0:
            items = self._in_this_process()
            return map(pinned, items) if self.pinned else items
        # Its own generator: by default a loader draws a seed from the global one, which would shift all that follows.
        return iter(
            DataLoader(
                _Items(self.items, self.stop), batch_size=None, sampler=range(self.start, self.stop),
                num_workers=self.num_workers, collate_fn=as_it_is, generator=torch.Generator(),
                multiprocessing_context="fork", pin_memory=self.pinned, worker_init_fn=outlives_signals(),
            )
        )  # fmt: skip

    def _in_this_process(self) -> Iterator[Any]:
        start = self.start
        while start < self.stop:
            stop = min(start - start % self.at_once + self.at_once, self.stop)
            yield from self.items(range(start, stop))
            start = stop


def outlives_signals() -> Callable[[int], None]:
    """-> what a worker process does first. Signals may reach all processes of a job, but what they ask for is the main
    one's to do, which needs its workers until the step is done: they stay until it leaves, and ends them by TERM."""
    leaving = _leaving()

    def begin(worker: int) -> None:
        for signum in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(signum, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.value else None)

    return begin


@cache
def _leaving() -> Any:
    """A number that worker processes see: 1 once this one exits."""
    leaving = multiprocessing.RawValue("b", 0)
    atexit.register(setattr, leaving, "value", 1)
    return leaving


def pinned(item: Any) -> Any:
    """The same batch, or list of batches, in memory that a GPU reads by itself."""
    if isinstance(item, list):
        return [pinned(batch) for batch in item]
    return {name: values.pin_memory() for name, values in item.items()}


def as_it_is(item: Any) -> Any:
    """An item that is a batch already."""
    return item
