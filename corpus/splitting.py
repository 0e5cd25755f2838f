"""The number of a document -> the split it belongs to, always the same for the same fractions.

Of every 100 documents in a row each hundredth of [0, 1) gets one, and of every ten each tenth: so even a small dataset
is cut by its fractions, and no period in the data meets one in the cut. Nothing depends on a seed of the run.
"""

import random
from functools import lru_cache

import numpy as np

from configs.schema import Dataset
from utils.messages import UserError

AT_ONCE = 100  # hundreds of documents
CUT = ("train", "validation", "test")


def place_of(index: int, stratum: int = 0) -> float:
    """Where document `index` falls in [0, 1). stratum: which count of documents that is (see corpus/inputs.py)."""
    return _block(index // 100, stratum)[index % 100]


def places_from(first: int, number: int, stratum: int = 0) -> np.ndarray:
    """(number,) where the documents first, …, first + number - 1 fall."""
    begin, end = first // 100, -(-(first + number) // 100)
    blocks = (range(at, min(at + AT_ONCE, end)) for at in range(begin, end, AT_ONCE))
    places = np.concatenate([np.empty(0), *(_places(some, stratum) for some in blocks)])
    return places[first - 100 * begin : first - 100 * begin + number]


def share(dataset: Dataset, split: str, cut: tuple[str, ...]) -> tuple[float, float]:
    """The part [low, high) of [0, 1) that `split` has of documents that are cut into the splits `cut`.

    Raises UserError where the fractions do not sum to 1.
    """
    fractions = dataset.fractions
    if abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values()) < 0:
        raise UserError(f"dataset.fractions: {dict(fractions)} should be shares that sum to 1")
    sizes = {name: float(fractions.get(name, 0.0)) for name in CUT if name in cut}  # type: ignore[call-overload]
    whole = sum(sizes.values())
    low = 0.0
    for name, size in sizes.items():
        high = 1.0 if name == list(sizes)[-1] else low + size / whole if whole else low
        if name == split:
            return low, high if size else low
        low = high
    return 0.0, 0.0


@lru_cache(maxsize=4)
def _block(number: int, stratum: int) -> list[float]:
    return _places(range(number, number + 1), stratum).tolist()


def _places(blocks: range, stratum: int) -> np.ndarray:
    """(100 * blocks,) where the documents of some hundreds fall."""
    # Python promises that random() gives the same numbers in every version; of shuffle() it does not.
    draws = np.array([_draws(number, stratum) for number in blocks])
    # Each ten documents get the tenths in an order of their own, and the documents of a tenth its hundredths.
    within = draws[:, :100].reshape(-1, 10, 10).argsort(axis=2)  # [block, tenth, ten documents]
    rest = draws[:, 100:].reshape(-1, 10, 2, 10)  # [block, ten documents, what for, which of them]
    tenths = rest[:, :, 0].argsort(axis=2)
    hundredths = within[np.arange(len(blocks))[:, None, None], tenths, np.arange(10)[None, :, None]]
    return ((tenths + (hundredths + rest[:, :, 1]) / 10) / 10).reshape(-1)


def _draws(number: int, stratum: int) -> list[float]:
    """What one hundred documents are placed by: ten numbers for each tenth, then twice ten for each ten of them."""
    draw = random.Random(f"liftoff split {number}" + (f" of {stratum}" if stratum else "")).random
    return [draw() for _ in range(300)]
