"""The order of samples: a permutation in every epoch, without bias, in constant memory."""

import numpy as np
import pytest

from corpus.chance import draw, integers, key_of, uniform
from corpus.order import Order


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 16, 17, 1000, 12_345])
def test_every_epoch_has_every_sample_once(n: int) -> None:
    order = Order(n, seed=3)
    for epoch in (0, 1, 7):
        places = np.arange(epoch * n, (epoch + 1) * n)
        assert np.array_equal(np.sort(order.at(places)), np.arange(n))


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


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_every_sample_is_as_likely_at_every_place(n: int) -> None:
    epochs = 6000
    seen = Order(n, seed=0).at(np.arange(n * epochs)).reshape(epochs, n)
    counts = np.stack([np.bincount(seen[:, place], minlength=n) for place in range(n)])
    freedom = (n - 1) ** 2
    chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum() * (n - 1) / n / freedom
    assert chi_square < 1 + 6 * (2 / freedom) ** 0.5  # 1 on average, six deviations above it


def test_neighbours_are_torn_apart() -> None:
    n = 100_000
    indices = Order(n, seed=0).at(np.arange(n))
    assert abs(np.corrcoef(indices[:-1], indices[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(n), indices)[0, 1]) < 0.02


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
