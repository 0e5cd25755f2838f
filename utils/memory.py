"""How much memory this process has, what of it is in use, and giving back what is not."""

import ctypes
import os
import sys
from typing import Any

MOST_FREED = 10 << 20  # bytes that a process keeps although they are free: some are used again and again
# What is in use is looked at when a process occupies so much more, which is told at once, or was asked so often: to
# tell it, the C library walks through all that is free, a millisecond long.
LOOKED_AFTER, LOOKED_EVERY = 1 << 22, 16

_C = ctypes.CDLL(None) if sys.platform == "linux" else None


def private_bytes() -> int | None:
    """Bytes of memory that this process occupies and shares with no file and no other; None without /proc."""
    try:
        with open("/proc/self/statm", "rb", 0) as file:
            _, resident, shared, *_ = file.read().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def allocated_bytes() -> int | None:
    """Bytes that the C library has given out and not got back; None where it does not tell."""
    ask = getattr(_C, "mallinfo2", None) or getattr(_C, "mallinfo", None)
    if ask is None:
        return None
    # struct mallinfo, of glibc; in the older one numbers begin again at 4 GB.
    number = ctypes.c_size_t if ask.__name__ == "mallinfo2" else ctypes.c_uint
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

    class Info(ctypes.Structure):
        _fields_ = [(name, number) for name in names.split()]

    ask.restype = Info
    info: Any = ask()
    return int(info.uordblks + info.hblkhd)


def trim() -> None:
    """Gives back to the system what has been freed, where the C library can."""
    if give_back := getattr(_C, "malloc_trim", None):
        give_back(0)


class Growth:
    """How much more than at the beginning is in use."""

    def __init__(self) -> None:
        self.first = allocated_bytes()
        self.next_look = (private_bytes() or 0) + LOOKED_AFTER
        self.asked = 0

    def exceeds(self, most: int) -> bool:
        """Whether that will be more than `most` bytes the next time that this is asked, if it grows as it did so far;
        False where nobody knows."""
        occupied = private_bytes() or 0
        self.next_look = min(self.next_look, occupied + LOOKED_AFTER)
        self.asked += 1
        if self.first is None or (self.asked % LOOKED_EVERY and occupied < self.next_look):
            return False
        self.next_look = occupied + LOOKED_AFTER
        now = allocated_bytes()
        return now is not None and (now - self.first) * (1 + 1 / self.asked) > most


class Freed:
    """What has been freed, and lies between what is in use, where it cannot be used for all that is to come."""

    def __init__(self) -> None:
        self.most: int | None = None

    def give_back(self) -> None:
        """Gives it back to the system where it may be much: seldom, as it takes time to have it again."""
        now = private_bytes() or 0
        if self.most is None:  # a part of it is free already
            self.most = now + MOST_FREED // 2
        elif now > self.most:
            trim()
            self.most = (private_bytes() or 0) + MOST_FREED
