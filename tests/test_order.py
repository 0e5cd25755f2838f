"""The order of samples: a permutation in every epoch, without bias, in constant memory."""

import math

import numpy as np
import pytest

from corpus.chance import draw, integers, key_of, uniform
from corpus.order import ROUNDS, SHUFFLED, Order

LARGE = [SHUFFLED + 1, 1 << 16, (1 << 16) + 1, 1_000_000, 2**31 - 1, 2**40, 2**40 + 12_345, 2**59 + 3]


def test_every_epoch_has_every_sample_once() -> None:
    for n in [*range(1, 130), 1000, 4097, SHUFFLED - 1, SHUFFLED, SHUFFLED + 1, 2**16, 2**16 + 1, 99_991]:
        for seed, epoch in ((3, 0), (4, 7)):
            seen = Order(n, seed).at(np.arange(epoch * n, (epoch + 1) * n))
            assert np.array_equal(np.sort(seen), np.arange(n)), (n, seed, epoch)


@pytest.mark.parametrize("n", LARGE)
def test_a_large_epoch_has_no_sample_twice(n: int) -> None:
    chance = np.random.default_rng(n)
    places = np.unique(np.concatenate([np.arange(min(n, 20_000)), chance.integers(n, size=20_000)]))
    order = Order(n, seed=1)
    indices = order.at(3 * n + places)
    assert indices.min() >= 0 and indices.max() < n and len(np.unique(indices)) == len(places)
    if n > SHUFFLED:  # and each comes from the place that a network written out one by one, backwards, says
        for index, place in zip(indices[::1000].tolist(), places[::1000].tolist(), strict=True):
            assert place_of(order, 3, index) == place


def place_of(order: Order, epoch: int, index: int) -> int:
    """The inverse of the permutation, in whole numbers of Python."""
    word, low_bits = (1 << 64) - 1, order.low_bits
    keys = [int(draw(draw(order.key, epoch), turn)[0]) for turn in range(2 * ROUNDS + 1)]
    x = (index - keys[-1] % order.n) % order.n
    while True:
        high, low = x >> low_bits, x & ((1 << low_bits) - 1)
        for turn in reversed(range(ROUNDS)):
            read, bits = (low, order.high_bits) if turn % 2 == 0 else (high, low_bits)
            mixed = (read * (keys[2 * turn] | 1) + keys[2 * turn + 1]) & word
            mixed = ((mixed ^ (mixed >> 32)) * 0x9E3779B97F4A7C15 & word) >> (64 - bits)
            high, low = (high ^ mixed, low) if turn % 2 == 0 else (high, low ^ mixed)
        x = (high << low_bits) | low
        if x < order.n:
            return x


def test_without_shuffling_samples_come_as_they_lie() -> None:
    assert Order(3, seed=0, shuffle=False).at(np.arange(7)).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_order_depends_on_seed_and_epoch_and_not_on_how_it_is_asked() -> None:
    order, places = Order(1000, seed=1), np.arange(5000)
    whole = order.at(places)
    assert not np.array_equal(whole[:1000], whole[1000:2000])
    assert not np.array_equal(whole, Order(1000, seed=2).at(places))
    one_by_one = np.concatenate([order.at(places[i : i + 1]) for i in range(0, 5000, 97)])
    assert np.array_equal(one_by_one, whole[::97])
    assert np.array_equal(order.at(places.reshape(50, 100)), whole.reshape(50, 100))


def deviations(counts: np.ndarray, expected: float, freedom: int) -> float:
    """Chi-squared of counts that should all be `expected`, in deviations from its mean."""
    return (((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_a_few_samples_is_as_likely(n: int) -> None:
    epochs = 12_000
    seen = Order(n, seed=0).at(np.arange(n * epochs)).reshape(epochs, n)
    orders, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(orders) == math.factorial(n) and abs(deviations(counts, epochs / len(orders), len(orders) - 1)) < 5


@pytest.mark.parametrize("n", [8, 17, SHUFFLED + 1, 1 << 16])
def test_over_the_epochs_every_pair_of_samples_is_as_likely_at_two_places(n: int) -> None:
    epochs, bins = 20_000, min(n, 16)
    for first, second in [(0, 1), (1, n // 2), (0, n - 1)]:
        pairs = Order(n, seed=5).at(np.arange(epochs)[:, None] * n + np.array([first, second]))
        if n <= 17:
            counts = np.bincount(pairs[:, 0] * n + pairs[:, 1], minlength=n * n).reshape(n, n)[~np.eye(n, dtype=bool)]
            assert abs(deviations(counts, epochs / (n * (n - 1)), n * (n - 1) - 1)) < 5
        else:  # which part of the corpus each is from
            parts = pairs * bins // n
            counts = np.bincount(parts[:, 0] * bins + parts[:, 1], minlength=bins**2)
            assert abs(deviations(counts, epochs / bins**2, bins**2 - 1)) < 5


@pytest.mark.parametrize("n", LARGE)
@pytest.mark.parametrize("seed", [0, 1])
def test_neighbours_are_torn_apart(n: int, seed: int) -> None:
    size, bins = min(n, 1 << 17), 32
    order, where = Order(n, seed), np.arange(size)
    for epoch in (0, 5):
        indices = order.at(epoch * n + where)
        parts, share = (indices / n * bins).astype(int), indices / n
        for lag in (1, 2, 16, 256, 1000):
            serial = np.corrcoef(share[:-lag], share[lag:])[0, 1] * size**0.5
            pairs = np.bincount(parts[:-lag] * bins + parts[lag:], minlength=bins**2)
            steps = np.bincount(((indices[lag:] - indices[:-lag]) % n / n * 512).astype(int), minlength=512)
            assert abs(serial) < 5
            assert abs(deviations(pairs, (size - lag) / bins**2, bins**2 - 1)) < 5
            assert abs(deviations(steps, (size - lag) / 512, 511)) < 5
        assert abs(np.corrcoef(where, share)[0, 1]) * size**0.5 < 5
        later = (order.at((epoch + 1) * n + where) / n * bins).astype(int)
        across = np.bincount(parts * bins + later, minlength=bins**2)
        assert abs(deviations(across, size / bins**2, bins**2 - 1)) < 5


def test_far_places_of_a_huge_corpus_cost_nothing() -> None:
    n = 10**12
    places = np.arange(10**15, 10**15 + 1000)
    indices = Order(n, seed=0).at(places)
    assert len(set(indices.tolist())) == 1000 and indices.min() >= 0 and indices.max() < n


def test_chance_is_even_and_broadcasts() -> None:
    key = key_of(0, "mask")
    numbers = uniform(key, np.arange(400)[:, None], np.arange(500)[None, :])
    assert numbers.shape == (400, 500) and 0 <= numbers.min() and numbers.max() < 1
    assert (
        abs(numbers.mean() - 0.5) < 0.005 and abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.01
    )
    assert numbers[7, 11] == uniform(key, 7, 11)[0] != uniform(key, 11, 7)[0]
    assert len(np.unique(draw(key, np.arange(100_000)))) == 100_000
    assert abs(np.bincount(integers(10, key, np.arange(100_000))) / 10_000 - 1).max() < 0.05
    assert key_of(0, "mask") != key_of(0, "order") != key_of(1, "order")
