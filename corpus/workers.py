"""Work in pieces -> results in the same order, from several processes, with few pieces on the way at any time.

Each process has a pipe of its own. Its next piece is in there before it has done the one before, so that it never waits
for this process; and there are no threads here that would take turns with what is done with the results.
"""

import multiprocessing
import pickle
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkProcess, SpawnContext, SpawnProcess
from types import TracebackType
from typing import Any

from corpus.handing_over import Slots
from corpus.renewing import serve_in_children, serve_spawned
from utils.messages import UserError

AT_HAND = 1  # pieces done here where there are no more: for them no process is started
AHEAD = 2  # pieces that a process has at once
# Of a pickled piece that is sent ahead. A larger one fills the pipe, and who sends it waits until it is read: of a
# process that may itself be waiting for its result to be read, that would be for ever.
AHEAD_BYTES = 1 << 14


class _Gone(Exception):
    """A worker process is no more."""


class _Worker:
    """A process, and the slots of the pieces that it has."""

    def __init__(self, process: ForkProcess | SpawnProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.asked: deque[int] = deque()

    def ask(self, slot: int, piece: bytes) -> None:
        """Sends a pickled piece. Raises _Gone."""
        self.asked.append(slot)
        try:
            self.connection.send_bytes(pickle.dumps(slot) + piece)
        except OSError:
            raise _Gone from None

    def answer(self) -> tuple[int, tuple[Any, Exception | None]]:
        """-> a slot; (what came of its piece, or an error). Raises _Gone."""
        try:
            return self.asked.popleft(), pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            raise _Gone from None


class Workers:
    """Calls `work` on pieces in `number` processes; in this one for 0 and 1. Use it in a `with` block."""

    def __init__(self, work: Callable[[Any], Any], number: int) -> None:
        """work: must pickle where processes cannot be forked."""
        self.work, self.number = work, number
        self.workers: list[_Worker] = []
        self.slots: Slots | None = None
        self.most = AHEAD * number + 1  # pieces on the way at any time
        self.ahead = 1

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self.workers:
            worker.connection.close()  # which ends the process, once it has done what it does
        for worker in self.workers:
            worker.process.join()

    def map(self, pieces: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the pieces. An error is raised where its piece's result would have come.

        Arrays in a result may lie in memory that a worker writes to again: of what is to outlast the next result a copy
        must be kept."""
        pieces = iter(pieces)
        if self.number < 2:
            yield from map(self.work, pieces)
            return
        if not self.workers:
            first = list(islice(pieces, AT_HAND + 1))
            if len(first) <= AT_HAND:
                yield from map(self.work, first)
                return
            pieces = chain(first, pieces)
            self._start()
        try:
            yield from self._results(pieces)
        except _Gone:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory; set tokenize.num_workers lower and run the "
                "same command again: it goes on where it stopped"
            ) from None

    def _results(self, pieces: Iterator[Any]) -> Iterator[Any]:
        while any(worker.asked for worker in self.workers):  # of pieces that nobody wants any more
            self._receive()
        free, order = list(range(self.most)), deque[int]()
        done: dict[int, tuple[Any, Exception | None]] = {}  # by slot
        pickled = map(pickle.dumps, pieces)
        todo = deque(islice(pickled, self.number + 1))
        while todo or order:
            while todo and free and (worker := self._ready(todo[0], len(todo) <= self.number)):
                order.append(free.pop())
                worker.ask(order[-1], todo.popleft())
                todo.extend(islice(pickled, 1))
            if order[0] not in done:
                done |= self._receive()
                continue
            result, error = done.pop(order[0])
            if error is not None:
                raise error
            if self.slots is None:
                yield result
            else:
                yield self.slots.get(order[0], result)
                self.slots.free(order[0], result)
            del result
            free.append(order.popleft())
            done |= self._receive(0)

    def _ready(self, piece: bytes, is_last: bool) -> _Worker | None:
        """The worker that is to have a pickled piece now, if there is one. The last ones are for who is ready first."""
        least = min(self.workers, key=lambda worker: len(worker.asked))
        return least if len(least.asked) < (1 if is_last or len(piece) > AHEAD_BYTES else self.ahead) else None

    def _receive(self, timeout: float | None = None) -> dict[int, tuple[Any, Exception | None]]:
        """By slot what has come since: results and errors. timeout: None waits until there is something."""
        waiting: dict[Any, _Worker] = {worker.connection: worker for worker in self.workers if worker.asked}
        return dict(waiting[connection].answer() for connection in wait(list(waiting), timeout))

    def _start(self) -> None:
        # Forked where that can be: a new interpreter takes a second to load what this one has loaded. The work
        # uses no threads of its own, so those that did not come along are not missed.
        if sys.platform == "linux":
            with suppress(OSError):  # they cannot be had where memory is promised to no one twice
                self.slots = Slots(self.most)
            self.ahead = AHEAD
        for _ in range(self.number):
            ours, theirs = multiprocessing.Pipe()
            self.workers.append(_Worker(self._process(ours, theirs), ours))
            theirs.close()

    def _process(self, ours: Connection, theirs: Connection) -> ForkProcess | SpawnProcess:
        process: ForkProcess | SpawnProcess
        if sys.platform == "linux":
            others = [*(worker.connection for worker in self.workers), ours]  # which are open there too
            process = ForkContext().Process(target=serve_in_children, args=(self.work, self.slots, theirs, others))
        else:
            process = SpawnContext().Process(target=serve_spawned, args=(self.work, theirs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons: see above
            process.start()
        return process
