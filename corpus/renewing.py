"""A function that is called in a child of this process, and in a new child before the old one has grown.

What a library keeps for ever, such as gigatoken every word that it has seen, goes with the child; and what this process
has loaded, the next one has at once, which is several times as fast as loading it again.
"""

import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

from utils.memory import private_bytes
from utils.messages import UserError

# By how much a child may grow after its first call. Code and prose reach it after some 50 MB of text; the tables
# in which gigatoken keeps words double at once, and the next time by more than this.
MOST_GROWTH = 11 << 20


class Renewed:
    """The function. Needs fork, and a process that has no threads which hold locks."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.child = 0
        self.connection: Connection | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Arguments and result must pickle. An error is raised here; where the child is killed this process ends."""
        if self.connection is None:
            self._fork()
        assert self.connection is not None
        try:
            self.connection.send_bytes(pickle.dumps(arguments))
            result, error, has_grown = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)  # as if this process had been killed itself: whoever waits for it knows what to do
        if has_grown:
            self.end()
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """Lets go of the child, and waits until it is gone."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            os.waitpid(self.child, 0)

    def _fork(self) -> None:
        ours, theirs = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of all threads
            self.child = os.fork()
        if self.child:
            theirs.close()
            self.connection = ours
            Finalize(None, self.end, exitpriority=0)  # when this process ends
            return
        try:
            ours.close()
            self._serve(theirs)
        except BaseException:  # nothing of this process may go on in the middle of its parent's work
            traceback.print_exc()
        finally:
            os._exit(0)

    def _serve(self, connection: Connection) -> None:
        """Calls, until nobody is left at the other end."""
        before: int | None = None
        while True:
            try:
                arguments = pickle.loads(connection.recv_bytes())
            except EOFError:
                return
            result, error = None, None
            try:
                result = self.function(*arguments)
            except Exception as raised:
                error = raised
                if not isinstance(raised, UserError):
                    error.add_note(traceback.format_exc())  # which does not come along
            now = private_bytes() or 0
            before = now if before is None else before
            connection.send_bytes(pickle.dumps((result, error, now - before > MOST_GROWTH)))
