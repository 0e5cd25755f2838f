"""What a worker process does: pieces from a pipe -> their results into it, in a child that is replaced when it grows.

What a library keeps for ever, such as gigatoken every word that it has seen, goes with the child; and what the process
has loaded, the next one has at once, which is several times as fast as loading it again.
"""

import gc
import io
import os
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

from corpus.handing_over import Slots
from utils.memory import Growth
from utils.messages import UserError

# By how much a child may grow. gigatoken keeps words in a table that doubles: with those of some 66 MB of code it takes
# 8 MB, and then 19. A child goes just before that: two gigabytes of ever new words take 7 % more memory than a hundred
# megabytes, where 17 % more bought 1 to 11 % of speed.
MOST_GROWTH = 9_000_000
GROWN = 75  # a child's exit code: another one is to go on


def serve_in_children(
    work: Callable[[Any], Any], slots: Slots | None, connection: Connection, others: Iterable[Connection]
) -> None:
    """Serves until nobody is left at the other end of the connection. Needs fork, and a process without threads.

    others: what is open here by accident, and would keep other ends from noticing that this process's parent is gone.
    Where a child is killed this process ends as if that had happened to itself: who waits for it knows what to do."""
    for other in others:
        other.close()
    _prepare()
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of all threads
            child = os.fork()
        if not child:
            _in_child(work, slots, connection)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != GROWN:
            os._exit(0 if code == 0 else 1)


def serve_spawned(work: Callable[[Any], Any], connection: Connection) -> None:
    """The same where there is no fork: in this process, whatever it grows to."""
    _prepare()
    _serve(work, None, connection, None)


def _in_child(work: Callable[[Any], Any], slots: Slots | None, connection: Connection) -> None:
    code = 1
    try:
        code = _serve(work, slots, connection, MOST_GROWTH)
    except BaseException:  # nothing of the process may go on in the middle of its parent's work
        traceback.print_exc()
    finally:
        os._exit(code)


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread for each process
    # Rows come and go by the thousand: to look for cycles among them all the time costs a twentieth of it. Templates of
    # chats leave some: they are looked for after each piece, among what is new.
    gc.freeze()
    gc.disable()


def _serve(work: Callable[[Any], Any], slots: Slots | None, connection: Connection, most_growth: int | None) -> int:
    """-> 0: nobody is left at the other end; GROWN: this process has grown by more than so many bytes."""
    growth = Growth()
    while True:
        try:
            message = io.BytesIO(connection.recv_bytes())
        except (EOFError, OSError):
            return 0
        slot, piece = pickle.load(message), pickle.load(message)
        del message
        answer = _answer(work, slots, slot, piece)
        del piece
        try:
            connection.send_bytes(answer)
        except OSError:
            return 0
        gc.collect()
        if most_growth is not None and growth.exceeds(most_growth):
            return GROWN


def _answer(work: Callable[[Any], Any], slots: Slots | None, slot: int, piece: Any) -> bytes:
    """(result, None) or (None, error), pickled."""
    try:
        result = work(piece)
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())  # which does not come along
        return pickle.dumps((None, error))
    return pickle.dumps((result if slots is None else slots.put(slot, result), None))
