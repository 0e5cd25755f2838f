"""Chance as a pure function: (seed, purpose, place, position) -> a number, the same on any machine and in any order.

Nothing here has a state, so nothing has to be stored to go on with a run: whoever asks again gets the same answer.
"""

import hashlib
from typing import Any

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads counters that differ little


def key_of(*names: int | str) -> np.uint64:
    """A key for a purpose, for example key_of(seed, "mask"); keys of different names have nothing in common."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def mixed(x: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, one to one, every bit of the answer depending on every bit of x (the end of SplitMix64,
    https://doi.org/10.1145/2714064.2660195)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(key: Any, *counters: Any) -> np.ndarray:
    """64 random bits for each combination of the counters (integers or arrays of them, which broadcast). -> uint64"""
    bits = np.atleast_1d(np.asarray(key, np.uint64))
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64 on purpose
        for counter in counters:
            bits = mixed(bits + (np.asarray(counter).astype(np.uint64) + np.uint64(1)) * GOLDEN)
    return bits


def uniform(key: Any, *counters: Any) -> np.ndarray:
    """The same as numbers in [0, 1). -> float64"""
    return (draw(key, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(below: int, key: Any, *counters: Any) -> np.ndarray:
    """The same as whole numbers in [0, below), below < 2^32. -> int64"""
    return (((draw(key, *counters) >> np.uint64(32)) * np.uint64(below)) >> np.uint64(32)).astype(np.int64)
