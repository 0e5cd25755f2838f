"""The number of a document -> the split it belongs to, always the same for the same fractions.

Of every 100 documents in a row each hundredth of [0, 1) gets one, and of every ten each tenth: so even a small dataset
is cut by its fractions, and no period in the data meets one in the cut. Nothing depends on a seed of the run.
"""

import random
from functools import lru_cache

from configs.schema import Dataset
from utils.messages import UserError

CUT = ("train", "validation", "test")


def place_of(index: int, stratum: int = 0) -> float:
    """Where document `index` falls in [0, 1). stratum: which count of documents that is (see corpus/inputs.py)."""
    return _block(index // 100, stratum)[index % 100]


def places_from(first: int, number: int, stratum: int = 0) -> list[float]:
    """Where the documents first, …, first + number - 1 fall."""
    begin, end = first // 100, -(-(first + number) // 100)
    places = [place for block in range(begin, end) for place in _block(block, stratum)]
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
    chance = random.Random(f"liftoff split {number}" + (f" of {stratum}" if stratum else ""))
    places = [0.0] * 100
    # Each ten documents get the tenths in an order of their own, and the documents of a tenth its hundredths.
    within = [_order(chance) for _ in range(10)]
    for ten in range(10):
        for i, tenth in enumerate(_order(chance)):
            places[10 * ten + i] = (tenth + (within[tenth][ten] + chance.random()) / 10) / 10
    return places


def _order(chance: random.Random) -> list[int]:
    # Python promises that random() gives the same numbers in every version; of shuffle() it does not.
    return sorted(range(10), key=lambda _: chance.random())
