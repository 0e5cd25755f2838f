"""Which sample is seen when: place in the run -> index of the sample, in constant memory.

Places count samples from the start of the run. Place n is the (n mod N)-th of epoch n div N, and a keyed permutation of
the indices says which sample that is. Nothing is shuffled and nothing stored, so resuming is asking for a later place.
"""

import itertools

import numpy as np

from corpus.chance import draw, key_of

ROUNDS = 8
BLOCK = 1 << 16  # places at a time: what is computed with them stays in the processor's cache
SHUFFLED = 1 << 14  # a corpus of at most so many samples is really shuffled: a network mixes few numbers unevenly
FEW = 256  # places of one epoch that are worth a turn of their own
ODD = np.uint64(0x9E3779B97F4A7C15)


class Order:
    """The order of `n` samples, epoch after epoch."""

    def __init__(self, n: int, seed: int, shuffle: bool = True, of: str = "") -> None:
        """n: samples in an epoch, 1 to 2^62. shuffle: another order for each epoch; else as they lie.
        of: orders of other names have nothing in common."""
        assert 0 < n <= 1 << 62
        self.n = n
        self.shuffle = shuffle
        self.key = key_of(seed, "order", of)
        bits = max(2, (n - 1).bit_length())
        self.low_bits, self.high_bits = bits // 2, bits - bits // 2

    def at(self, places: np.ndarray) -> np.ndarray:
        """places: integers from 0, any shape -> indices of samples, of the same shape, int64"""
        places = np.asarray(places).astype(np.int64, copy=False)
        flat, indices = places.ravel(), np.empty(places.size, np.int64)
        for first in range(0, flat.size, BLOCK):
            part = slice(first, first + BLOCK)
            epochs = flat[part] // self.n
            within = flat[part] - epochs * self.n
            if not self.shuffle:
                indices[part] = within
            elif self.n <= SHUFFLED:
                indices[part] = self._shuffled(epochs, within)
            else:
                borders = np.flatnonzero(np.diff(epochs)) + 1
                # Runs of one epoch share their keys; where hardly any place follows another, each has its own.
                runs = [0, *borders, len(epochs)] if len(borders) < len(epochs) / FEW else [0, len(epochs)]
                for start, stop in itertools.pairwise(runs):
                    indices[first + start : first + stop] = self._permuted(epochs[start:stop], within[start:stop])
        return indices.reshape(places.shape)

    def _shuffled(self, epochs: np.ndarray, within: np.ndarray) -> np.ndarray:
        """Each epoch's samples sorted by a random number: every order is equally likely."""
        distinct, which = _distinct(epochs)
        indices = np.empty_like(within)
        at_once = max(1, BLOCK // self.n)
        for first in range(0, len(distinct), at_once):
            keys = draw(self.key, distinct[first : first + at_once, None], np.arange(self.n))
            asked = slice(None) if len(distinct) <= at_once else (which >= first) & (which < first + at_once)
            indices[asked] = keys.argsort(axis=1, kind="stable")[which[asked] - first, within[asked]]
        return indices

    def _permuted(self, epochs: np.ndarray, within: np.ndarray) -> np.ndarray:
        """A Feistel network on the smallest power of two that holds n, and a rotation by a random number: with it every
        sample is equally likely at a place, and half of the orders are not out of reach."""
        distinct, which = _distinct(epochs)
        keys = draw(draw(self.key, distinct), np.arange(2 * ROUNDS + 1)[:, None])
        shift = keys[-1] % np.uint64(self.n)
        if len(distinct) > 1:
            keys, shift = keys[:, which], shift[which]
        x = self._network(within.view(np.uint64), keys)
        # At most every other number is outside of the n; one that is goes on until it is back.
        walking = np.flatnonzero(x >= self.n)
        while walking.size:
            moved = self._network(x[walking], keys if keys.shape[1] == 1 else keys[:, walking])
            x[walking] = moved
            walking = walking[moved >= self.n]
        x += shift
        return np.minimum(x, x - np.uint64(self.n)).view(np.int64)  # what is below n wraps round to a huge number

    def _network(self, x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """One to one whatever the rounds compute: each changes one half by a function of the other.

        x: (P,) uint64. keys: (2 * ROUNDS + 1, 1 or P) uint64 -> (P,) uint64
        """
        low_bits = np.uint64(self.low_bits)
        low, high = x & np.uint64((1 << self.low_bits) - 1), x >> low_bits
        mixed, shifted = np.empty_like(x), np.empty_like(x)
        for turn in range(ROUNDS):
            read, changed, bits = (low, high, self.high_bits) if turn % 2 == 0 else (high, low, self.low_bits)
            np.multiply(read, keys[2 * turn] | np.uint64(1), out=mixed)
            np.add(mixed, keys[2 * turn + 1], out=mixed)
            np.right_shift(mixed, np.uint64(32), out=shifted)
            np.bitwise_xor(mixed, shifted, out=mixed)
            np.multiply(mixed, ODD, out=mixed)
            np.right_shift(mixed, np.uint64(64 - bits), out=mixed)  # its upper bits depend on all of what was read
            np.bitwise_xor(changed, mixed, out=changed)
        return (high << low_bits) | low


def _distinct(epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> the epochs that there are, or a few more, and the number of each place's among them"""
    lowest, highest = int(epochs.min()), int(epochs.max())
    if highest - lowest < len(epochs):  # as always where places follow each other
        return np.arange(lowest, highest + 1), epochs - lowest
    return np.unique(epochs, return_inverse=True)
