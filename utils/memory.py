"""How much memory this process has."""

import os
from pathlib import Path


def private_bytes() -> int | None:
    """Bytes of memory that this process occupies and shares with no file and no other; None without /proc."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
