"""Ctrl-C, TERM and USR1 -> a flag that is read at a step's end.

A handler that saved would do so in the middle of a step, and of a collective: with several ranks that deadlocks.
"""

import os
import signal
from types import FrameType
from typing import Any

LISTENED_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):
    """Training was asked to stop, and has saved.

    signum: the signal. The process should leave with 128 + signum, so that who started it knows.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum = signum


class Signals:
    """Holds the first signal that came. `listen` and `ignore` put the handlers in place and back."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def listen(self) -> None:
        """Takes over from the handlers that are there (Lightning's, which come on just before training)."""
        for signum in LISTENED_TO:
            self._before[signum] = signal.signal(signum, self._note)

    def ignore(self) -> None:
        """Puts the handlers from before back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked data worker, which has inherited this
            return
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C: at once, without saving
        if not self.received:
            self.received = signum  # no more: anything else could meet itself half done
