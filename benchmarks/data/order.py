"""The order of samples: Liftoff's keyed permutation beside a list that is shuffled.

    python -m benchmarks.data.order [--seed 0] [--rounds 5] [--sizes 1000 1000000 1048577 1000000000 1099511627777]

One thread. For each size: a million places in a row, the first places from the middle of a far epoch (a resume), and
the memory that took; and beside it NumPy's and torch's shuffled lists, which hold an epoch (8 bytes a sample) and must
make it before its first sample, up to 10^8 samples. Speeds are in million indices a second of processor time; those of
the lists count making the whole list. Prints a table and writes benchmarks/results/data_order.json.
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.data.measuring import keep, show
from corpus.order import Order

PLACES = 1_000_000
LARGEST_LIST = 100_000_000
SIZES = (1000, 100_000, 1_000_000, (1 << 20) + 1, 1_000_000_000, (1 << 40) + 1)  # 2^k + 1 is the slowest for us


def liftoff(n: int, seed: int) -> int:
    """-> how many indices it made"""
    Order(n, seed).at(np.arange(PLACES))
    return PLACES


def numpy_list(n: int, seed: int) -> int:
    """One epoch."""
    np.random.default_rng(seed).permutation(n)
    return n


def torch_list(n: int, seed: int) -> int:
    """One epoch, as torch's RandomSampler makes it (which then turns it into Python's numbers, not counted here)."""
    torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return n


WAYS: dict[str, Callable[[int, int], int]] = {
    "liftoff": liftoff, "numpy permutation": numpy_list, "torch randperm": torch_list
}  # fmt: skip


def measured(way: str, n: int, seed: int, rounds: int) -> list[float]:
    """-> million indices a second, in each round"""
    speeds = []
    for number in range(rounds + 1):
        started, done = time.process_time(), 0
        while not done or time.process_time() - started < 0.05:
            done += WAYS[way](n, seed + number)
        speeds.append(done / (time.process_time() - started) / 1e6)
    return speeds[1:]  # the first one warms up


def seek(n: int, seed: int) -> float:
    """-> microseconds to the first 4,096 indices from the middle of epoch 12,345"""
    order, start = Order(n, seed), 12_345 * n + n // 2
    started = time.process_time()
    order.at(np.arange(start, start + 4096))
    return (time.process_time() - started) * 1e6


def memory(n: int, seed: int) -> float:
    """-> most MB that are held at once for a million places, their numbers and indices included"""
    tracemalloc.start()
    liftoff(n, seed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, kept = [], []
    for n in arguments.sizes:
        ways = [way for way in WAYS if way == "liftoff" or n <= LARGEST_LIST]
        speeds = {way: statistics.median(measured(way, n, arguments.seed, arguments.rounds)) for way in ways}
        figures: dict[str, Any] = {
            "samples": n,
            "million_indices_per_second": {way: round(speed, 1) for way, speed in speeds.items()},
            "microseconds_to_seek": round(statistics.median(seek(n, arguments.seed + i) for i in range(9))),
            "peak_mb": round(memory(n, arguments.seed), 1),
            "list_mb": round(n * 8 / 1e6, 1),
        }
        kept.append(figures)
        rows.append(
            (f"{n:,}", *(f"{speeds[way]:,.1f}" if way in speeds else "-" for way in WAYS),
             f"{figures['microseconds_to_seek']:,}", figures["peak_mb"], f"{figures['list_mb']:,}")
        )  # fmt: skip
    columns = ("samples", *(f"{way}, M/s" for way in WAYS), "seek, us", "MB", "a list's MB")
    show("order of samples, one thread", columns, rows)
    keep("data_order", {"seed": arguments.seed, "rounds": arguments.rounds, "places": PLACES, "sizes": kept})


if __name__ == "__main__":
    main()
