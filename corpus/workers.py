"""Work in pieces -> results in the same order, from several processes, with few pieces on the way at any time."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import chain, islice
from types import TracebackType
from typing import Any

from corpus.handing_over import HandedOver, Slots
from corpus.renewing import Renewed
from utils.messages import UserError

AT_HAND = 1  # pieces done here where there are no more: for them no process is started

_work: Callable[[Any], Any]
_slots: Slots | None


class Workers:
    """Calls `work` on pieces in `number` processes; in this one for 0 and 1. Use it in a `with` block."""

    def __init__(self, work: Callable[[Any], Any], number: int) -> None:
        """work: must pickle; it is sent to each process once."""
        self.work, self.number = work, number
        self.executor: ProcessPoolExecutor | None = None
        self.slots: Slots | None = None
        self.most = 2 * number + 1  # pieces on the way at any time

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.executor:
            self.executor.shutdown(wait=True, cancel_futures=True)

    def map(self, pieces: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the pieces. An error is raised where its piece's result would have come.

        Arrays in a result may lie in memory that a worker writes to again: of what is to outlast the next result a copy
        must be kept."""
        pieces = iter(pieces)
        if self.number < 2:
            yield from map(self.work, pieces)
            return
        if self.executor is None:
            first = list(islice(pieces, AT_HAND + 1))
            if len(first) <= AT_HAND:
                yield from map(self.work, first)
                return
            pieces = chain(first, pieces)
        waiting: deque[tuple[int, Future[Any]]] = deque()
        free = list(range(self.most))
        try:
            for piece in pieces:
                slot = free.pop()
                waiting.append((slot, self._started().submit(_do, piece, slot)))
                if not free:
                    yield self._result(*waiting[0])
                    free.append(waiting.popleft()[0])
            while waiting:
                yield self._result(*waiting.popleft())
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory; set tokenize.num_workers lower and run the "
                "same command again: it goes on where it stopped"
            ) from None

    def _result(self, slot: int, future: "Future[Any]") -> Any:
        done = future.result()
        return self.slots.get(slot, done) if self.slots is not None else done

    def _started(self) -> ProcessPoolExecutor:
        if self.executor is None:
            # Forked where that can be: a new interpreter takes a second to load what this one has loaded. The work
            # uses no threads of its own, so those that did not come along are not missed.
            how = "fork" if sys.platform == "linux" else "spawn"
            if how == "fork":  # processes that are spawned would not share them
                with suppress(OSError):  # nor can they be had where memory is promised to no one twice
                    self.slots = Slots(self.most)
            context = multiprocessing.get_context(how)
            self.executor = ProcessPoolExecutor(self.number, context, _start, (self.work, self.slots))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons: see above
                self.executor.submit(os.getpid)  # starts all of them
        return self.executor


def _start(work: Callable[[Any], Any], slots: Slots | None) -> None:
    global _work, _slots
    _work, _slots = work, slots
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread for each process
    # Rows come and go by the thousand: to look for cycles among them all the time costs a twentieth of it. Templates of
    # chats leave some: they are looked for after each piece, among what is new.
    gc.freeze()
    gc.disable()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _once(piece: Any, slot: int) -> Any:
    done = _work(piece)
    handed: HandedOver | Any = done if _slots is None else _slots.put(slot, done)
    del done
    gc.collect()
    return handed


_renewed = Renewed(_once)


def _do(piece: Any, slot: int) -> Any:
    return _once(piece, slot) if _slots is None else _renewed(piece, slot)
