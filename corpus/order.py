"""Which sample is seen when: place in the run -> index of the sample, in constant memory.

Places count samples from the start of the run. Place n is the (n mod N)-th of epoch n div N, and a keyed permutation of
the indices says which sample that is. Nothing is shuffled and nothing stored, so resuming is asking for a later place.
"""

import math

import numpy as np

from corpus.chance import draw, key_of

ROUNDS = 8


class Order:
    """The order of `n` samples, epoch after epoch."""

    def __init__(self, n: int, seed: int, shuffle: bool = True) -> None:
        """n: samples in an epoch (at least 1). shuffle: another order for each epoch; else as they lie."""
        assert n > 0
        self.n = n
        self.shuffle = shuffle
        self.key = key_of(seed, "order")
        self.side = max(1, math.isqrt(n - 1) + 1)  # smallest with side * side >= n

    def at(self, places: np.ndarray) -> np.ndarray:
        """places: integers from 0, any shape -> indices of samples, of the same shape, int64"""
        places = np.asarray(places, np.uint64)
        epochs, indices = np.divmod(places, np.uint64(self.n))
        if not self.shuffle:
            return indices.astype(np.int64)
        shape, indices = indices.shape, indices.ravel()
        keys = draw(self.key, epochs.ravel())
        walking = np.arange(indices.size)
        # The permutation is of side * side numbers, a few more than n: one outside goes on until it is back.
        while walking.size:
            indices[walking] = self._permuted(indices[walking], keys[walking])
            walking = walking[indices[walking] >= self.n]
        return indices.astype(np.int64).reshape(shape)

    def _permuted(self, x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """A Feistel network on pairs of numbers below `side`: one to one whatever the rounds add."""
        side = np.uint64(self.side)
        left, right = np.divmod(x, side)
        for turn in range(ROUNDS):
            left, right = right, (left + draw(keys, turn, right) % side) % side
        return left * side + right
