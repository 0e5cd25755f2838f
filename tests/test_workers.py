"""Worker processes: what a piece of work leaves behind is gone before the next one."""

import weakref
from typing import Any

import numpy as np
import pytest

from corpus import handing_over
from corpus.handing_over import Slots
from corpus.workers import Workers


class Cycle:
    """Holds itself, as what templates of chats leave behind does."""

    def __init__(self) -> None:
        self.itself = self


alive: "weakref.WeakSet[Cycle]" = weakref.WeakSet()


def left_before(piece: int) -> int:
    """How many cycles of earlier pieces are still in memory; and leaves some."""
    found = len(alive)
    alive.update(Cycle() for _ in range(50))
    return found


def test_a_worker_keeps_nothing_of_the_pieces_before() -> None:
    with Workers(left_before, 2) as pool:
        assert list(pool.map(range(20))) == [0] * 20


def arrays_of(piece: int) -> dict[str, Any]:
    return {
        "piece": piece,
        "many": np.arange(piece * 1000, dtype=np.uint16),
        "none": np.empty((0, 3), np.int64),
        "every other": np.arange(40)[::2],
        "nested": (np.full((2, 3), piece, np.int32), [b"bytes", None]),
    }


def check_arrays(found: dict[str, Any], piece: int) -> None:
    expected = arrays_of(piece)
    for name in ("many", "none", "every other"):
        assert found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name])
    assert found["piece"] == piece and np.array_equal(found["nested"][0], expected["nested"][0])
    assert found["nested"][1] == [b"bytes", None]


@pytest.mark.parametrize("slot_bytes", [1 << 25, 40_000])  # the second: too little for most of them
def test_arrays_come_as_they_were_made(monkeypatch: pytest.MonkeyPatch, slot_bytes: int) -> None:
    monkeypatch.setattr(handing_over, "SLOT_BYTES", slot_bytes)
    with Workers(arrays_of, 3) as pool:
        for piece, found in enumerate(pool.map(range(50))):
            check_arrays(found, piece)


def test_what_lies_in_a_slot_is_not_copied_and_what_is_too_large_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_over, "SLOT_BYTES", 4096)
    slots = Slots(2)
    small, large = np.arange(100, dtype=np.int64), np.arange(1000, dtype=np.int64)
    first = slots.get(0, slots.put(0, small))
    kept = slots.get(1, slots.put(1, large))
    slots.put(0, small + 1)
    assert first.tolist() == (small + 1).tolist()  # what was put there since
    slots.put(1, small)
    assert kept.tolist() == large.tolist()
    full = np.arange(512, dtype=np.int64)
    assert slots.put(0, full).sizes == [4096] and slots.put(0, [full, small[:1]]).sizes is None


def test_what_few_results_need_of_a_slot_is_given_back() -> None:
    slots = Slots(2)
    for slot, size in ((0, handing_over.KEPT_BYTES), (1, handing_over.SLOT_BYTES)):
        full = np.full(size, 7, np.uint8)
        handed = slots.put(slot, full)
        found = slots.get(slot, handed)
        assert np.array_equal(found, full)
        slots.free(slot, handed)
        kept = np.frombuffer(slots.memory, np.uint8, size, slot * handing_over.SLOT_BYTES)
        assert np.flatnonzero(kept == 7).tolist() == list(range(handing_over.KEPT_BYTES))
