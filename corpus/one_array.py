"""Arrays that lie in several files mapped into memory -> one array over all of them, read by one gather."""

import numpy as np


class OneArray:
    """`values` reaches from the lowest address to the highest; `first` (K,) says where in it each of K arrays begins.

    What lies between them must not be looked at, and is not where places come from `first` and the arrays' lengths.
    NumPy's cost of a call is that of many rows, so one gather from hundreds of shards is as fast as from one."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        """parts: one-dimensional, contiguous, of one type; they are kept."""
        size = parts[0].itemsize
        assert all(part.dtype == parts[0].dtype and part.flags.c_contiguous for part in parts)
        begins = np.array([part.__array_interface__["data"][0] for part in parts], np.int64)
        filled = np.array([len(part) > 0 for part in parts])
        self.parts, self.values, self.first = parts, parts[0], np.zeros(len(parts), np.int64)
        if filled.any():
            ends = begins + [part.nbytes for part in parts]
            lowest = int(np.argmin(np.where(filled, begins, ends.max())))
            self.first = np.where(filled, begins - begins[lowest], 0)
            assert not (self.first % size).any()
            self.first //= size
            n = int(ends[filled].max() - begins[lowest]) // size
            self.values = np.lib.stride_tricks.as_strided(parts[lowest], (n,), (size,), writeable=False)

    def at(self, number: np.ndarray, place: np.ndarray) -> np.ndarray:
        """What stands at places of arrays."""
        return self.values[self.first[number] + place]


def runs(values: np.ndarray, width: int, first: int = 0, step: int = 1) -> np.ndarray:
    """Every run of `width` values that begins at first, first + step, …, each as one item of bytes: looked at, not
    copied. NumPy gathers such items twice as fast as rows of numbers."""
    item = np.dtype((np.void, width * values.itemsize))
    n = max(0, (len(values) - width - first) // step + 1)
    if not n:
        return np.empty(0, item)
    return np.ndarray(n, item, buffer=values, offset=first * values.itemsize, strides=(step * values.itemsize,))


def as_rows(taken: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Items of bytes -> the values in them, (B, width)"""
    return taken.view(dtype).reshape(len(taken), taken.itemsize // dtype.itemsize)
