"""Worker processes: what a piece of work leaves behind is gone before the next one."""

import weakref

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
