"""Training windows of one corpus, or of several by weight: place in the run -> whose window it is, and which.

Of every 10,000 places each source has exactly its share, in keyed order. A source's own place is how many places it had
before: in closed form for the whole cycles, and counted within the one that the place lies in.
"""

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from corpus.order import Order
from corpus.packing import Windows
from corpus.window_index import WindowIndex
from utils.messages import UserError

CYCLE = 10_000  # places


class Mixture:
    """Whose place is which. Sources are numbered in the order of their names, so the order in a config says nothing."""

    def __init__(self, weights: dict[str, float], seed: int) -> None:
        """weights: above 0, of any sum. Raises UserError where one is too small to have a place in 10,000."""
        self.names = sorted(weights)
        self.counts = rounded([weights[name] for name in self.names], CYCLE)
        for name, count in zip(self.names, self.counts, strict=True):
            if not count:
                raise UserError(
                    f"data.mixture: '{name}' would have less than one window in {CYCLE:,}; give it a greater weight"
                )
        self.shares = (self.counts / CYCLE).tolist()
        self.order = Order(CYCLE, seed, of="mixture")
        self._of_cycle = lru_cache(maxsize=4)(self._cycle)

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """places: (P,) integers from 0 -> numbers of their sources, and the sources' own places, (P,) int64 both"""
        places = np.asarray(places).astype(np.int64, copy=False)
        cycles = places // CYCLE
        within = places - cycles * CYCLE
        sources, own = np.empty_like(places), np.empty_like(places)
        lowest, highest = (int(cycles.min()), int(cycles.max())) if places.size else (0, -1)
        touched = range(lowest, highest + 1) if highest - lowest < len(places) else np.unique(cycles).tolist()
        for cycle in touched:
            asked = slice(None) if len(touched) == 1 else cycles == cycle
            of_places, before = self._of_cycle(cycle)
            sources[asked] = of_places[within[asked]]
            own[asked] = before[within[asked]] + cycle * self.counts[sources[asked]]
        return sources, own

    def had(self, places: int) -> np.ndarray:
        """How many of the first `places` places each source has. -> (sources,) int64"""
        cycles, rest = divmod(places, CYCLE)
        return cycles * self.counts + np.bincount(self._of_cycle(cycles)[0][:rest], minlength=len(self.names))

    def _cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """-> of each place of a cycle the source, and how many places of the cycle that source has before. (CYCLE,)"""
        slots = self.order.at(np.arange(cycle * CYCLE, (cycle + 1) * CYCLE))
        ends = np.cumsum(self.counts)
        sources = np.searchsorted(ends, slots, side="right")
        before = np.empty(CYCLE, np.int64)
        together = np.argsort(sources, kind="stable")  # each source's places, in their order
        before[together] = np.arange(CYCLE) - np.repeat(ends - self.counts, self.counts)
        return sources, before


class Chosen(NamedTuple):
    """Places of a run, and the windows there."""

    places: np.ndarray  # (P,) int64
    sources: np.ndarray | None  # (P,) int64: whose window it is; None where there is one source
    windows: np.ndarray  # (P,) int64: number of the window in its source

    def part(self, rows: slice) -> "Chosen":
        """Some of them."""
        return Chosen(*(None if values is None else values[rows] for values in self))


class TrainingWindows:
    """The windows that a run reads, in their order."""

    def __init__(
        self, indices: dict[str, WindowIndex], weights: dict[str, float] | None, seed: int, shuffle: bool
    ) -> None:
        """indices: of each source by name. weights: of the same names, or None where there is one source."""
        self.mixture = None if weights is None else Mixture(weights, seed)
        self.names = list(indices) if self.mixture is None else self.mixture.names
        self.indices = [indices[name] for name in self.names]
        names = [""] if self.mixture is None else self.names
        self.orders = [Order(len(index), seed, shuffle, of=of) for index, of in zip(self.indices, names, strict=True)]

    def __len__(self) -> int:
        """Windows in an epoch; in a cycle of a mixture."""
        return len(self.indices[0]) if self.mixture is None else CYCLE

    @property
    def input_tokens(self) -> int:
        """Unpadded tokens of them; of a mixture, what a cycle has on average."""
        if self.mixture is None:
            return self.indices[0].counts.input_tokens
        means = [Fraction(index.counts.input_tokens, len(index)) for index in self.indices]
        return round(sum(int(n) * mean for n, mean in zip(self.mixture.counts, means, strict=True)))

    def at(self, places: np.ndarray) -> Chosen:
        """places: (P,) integers from 0. Best asked for many at once."""
        if self.mixture is None:
            return Chosen(places, None, self.orders[0].at(places))
        sources, windows = self.mixture.at(places)
        for number, order in enumerate(self.orders):
            rows = np.flatnonzero(sources == number)
            windows[rows] = order.at(windows[rows])
        return Chosen(places, sources, windows)

    def gather(self, chosen: Chosen) -> Windows:
        """Their tokens."""
        if chosen.sources is None:
            return self.indices[0].gather(chosen.windows, chosen.places)
        together = np.argsort(chosen.sources, kind="stable")
        borders = np.searchsorted(chosen.sources[together], np.arange(1, len(self.indices)))
        parts = [
            (rows, index.gather(chosen.windows[rows], chosen.places[rows]))
            for index, rows in zip(self.indices, np.split(together, borders), strict=True)
            if len(rows)
        ]
        return Windows(*(_merged(len(together), parts, field) for field in range(len(Windows._fields))))

    def epochs(self, places: int) -> dict[str, float]:
        """How often each source's windows have been read after so many places."""
        had = [places] if self.mixture is None else self.mixture.had(places).tolist()
        return {name: n / len(index) for name, n, index in zip(self.names, had, self.indices, strict=True)}


def rounded(weights: list[float], whole: int) -> np.ndarray:
    """Weights -> whole numbers of that sum, as near to them as can be: what is left goes to the largest remainders."""
    exact = [Fraction(str(weight)) for weight in weights]
    wanted = [weight * whole / sum(exact) for weight in exact]
    counts = [int(share) for share in wanted]
    by_remainder = sorted(range(len(weights)), key=lambda i: (counts[i] - wanted[i], i))
    for i in by_remainder[: whole - sum(counts)]:
        counts[i] += 1
    return np.array(counts, np.int64)


def _merged(n: int, parts: list[tuple[np.ndarray, Windows]], field: int) -> np.ndarray | None:
    """One field of windows that were gathered source by source, in the order of their places."""
    first = parts[0][1][field]
    if first is None:
        return None
    whole = np.empty((n, *first.shape[1:]), first.dtype)
    for rows, windows in parts:
        whole[rows] = windows[field]
    return whole
