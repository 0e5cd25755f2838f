"""Results of worker processes -> the process that started them, the arrays in them through memory that all share.

Through a pipe a megabyte costs as much as reading it from JSON: it is copied five times, 64 KB at a time.
"""

import mmap
import pickle
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple

SLOT_BYTES = 1 << 25  # of the arrays of one result. What was never used of it takes no memory,
KEPT_BYTES = 2 << 20  # and what was used beyond this is given back: few results are so large.
ALIGNED = 64


class HandedOver(NamedTuple):
    """A result on its way."""

    pickled: bytes
    sizes: list[int] | None  # bytes of each array that lies in a slot; None: everything is pickled


class Slots:
    """Memory of this process and of all that are forked from it."""

    def __init__(self, number: int) -> None:
        self.memory = mmap.mmap(-1, number * SLOT_BYTES)

    def put(self, slot: int, result: Any) -> HandedOver:
        """Puts the arrays of a result into a slot. What is too large for that is pickled with the rest."""
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        sizes = [array.nbytes for array in arrays]
        *starts, end = _places(slot, sizes)
        if end > (slot + 1) * SLOT_BYTES:
            return HandedOver(pickle.dumps(result, protocol=5), None)
        for start, array in zip(starts, arrays, strict=True):
            self.memory[start : start + array.nbytes] = array
        return HandedOver(pickled, sizes)

    def get(self, slot: int, handed: HandedOver) -> Any:
        """The result. Its arrays lie in the slot until it is freed, or something else is put there."""
        if handed.sizes is None:
            return pickle.loads(handed.pickled)
        memory = memoryview(self.memory)
        starts = _places(slot, handed.sizes)
        arrays = [memory[start : start + size] for start, size in zip(starts, handed.sizes, strict=False)]
        return pickle.loads(handed.pickled, buffers=arrays)

    def free(self, slot: int, handed: HandedOver) -> None:
        """What was put there is not needed any more."""
        *_, end = _places(slot, handed.sizes or [])
        kept = slot * SLOT_BYTES + KEPT_BYTES
        if end > kept:
            with suppress(OSError):  # not every kernel can
                self.memory.madvise(mmap.MADV_REMOVE, kept, SLOT_BYTES - KEPT_BYTES)


def _places(slot: int, sizes: list[int]) -> list[int]:
    """-> where each array begins, and where the last one ends"""
    return list(accumulate((-(-size // ALIGNED) * ALIGNED for size in sizes), initial=slot * SLOT_BYTES))
