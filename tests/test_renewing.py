"""Work in children of worker processes: results and errors come through; one that has grown is replaced."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from corpus import renewing, workers
from corpus.workers import AHEAD_BYTES, Workers
from utils import memory
from utils.memory import Freed, Growth, allocated_bytes, private_bytes, trim
from utils.messages import UserError

held: list[bytearray] = []
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="children and their memory are for Linux")


def work(piece: tuple[str, int]) -> tuple[int, int]:
    """-> its process, and how much this process holds already"""
    what, size = piece
    if what == "user":
        raise UserError("mend it")
    if what == "bug":
        raise KeyError("unknown")
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    before = sum(map(len, held))
    held.append(bytearray(b"x" * size))
    return os.getpid(), before


@linux_only
def test_what_a_child_keeps_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "MOST_GROWTH", 8 << 20)
    monkeypatch.setattr(memory, "LOOKED_EVERY", 1)
    with Workers(work, 2) as pool:
        found = list(pool.map([("hold", 3 << 20)] * 24))
    pids = {pid for pid, _ in found}
    assert os.getpid() not in pids and not held
    assert len(pids) in (12, 13)  # two calls each: 3 MB at a time, and a third time would be beyond 8 MB
    for pid in pids:
        own = [kept >> 20 for one, kept in found if one == pid]
        assert own == [3 * i for i in range(len(own))]  # nothing of the one before
        assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("what", ["user", "bug"])
def test_errors_come_from_the_child_in_their_place(what: str) -> None:
    with Workers(work, 2) as pool:
        results = pool.map([("hold", 0)] * 5 + [(what, 0)] + [("hold", 0)] * 5)
        pids = {next(results)[0] for _ in range(5)}
        with pytest.raises(UserError if what == "user" else KeyError) as caught:
            next(results)
        assert str(caught.value) == ("mend it" if what == "user" else "'unknown'")
        if what == "bug":
            assert "in work" in caught.value.__notes__[0]  # where it happened
        assert {pid for pid, _ in pool.map([("hold", 0)] * 20)} == pids  # both go on


def test_a_child_that_is_killed_is_told_in_one_line() -> None:
    with Workers(work, 2) as pool, pytest.raises(UserError, match="a worker process was killed, perhaps for lack"):
        list(pool.map([("hold", 0)] * 5 + [("killed", 0)] + [("hold", 0)] * 5))


def unreadable(piece: int) -> int:
    raise EOFError("the file ends too early")


def test_an_error_of_the_work_is_no_process_that_was_killed() -> None:
    with Workers(unreadable, 2) as pool, pytest.raises(EOFError, match="ends too early"):
        list(pool.map(range(10)))


def test_an_error_of_the_pieces_is_no_process_that_was_killed() -> None:
    def pieces() -> Iterator[tuple[str, int]]:
        yield from [("hold", 0)] * 5
        raise EOFError("the file ends too early")

    with Workers(work, 2) as pool, pytest.raises(EOFError, match="ends too early"):
        list(pool.map(pieces()))


def size_of(piece: tuple[int, bytes]) -> tuple[int, bytes]:
    """What is as large as the piece, and too large for a pipe to hold."""
    number, content = piece
    return number, content[::-1]


def test_large_pieces_and_large_results_pass_each_other() -> None:
    large = [b"%d" % i + bytes(AHEAD_BYTES * (200 if i % 3 else 1)) for i in range(30)]
    with Workers(size_of, 2) as pool:
        assert list(pool.map(enumerate(large))) == [(i, content[::-1]) for i, content in enumerate(large)]


def slow_at_first(piece: int) -> int:
    time.sleep(1.5 if piece == 0 else 0.01)
    return os.getpid()


def test_the_last_pieces_wait_for_nobody() -> None:
    with Workers(slow_at_first, 2) as pool:
        first, second, third, fourth = pool.map(range(4))
        assert first not in (third, fourth)  # the one that is busy got none of those that came last
        assert second == third == fourth


def test_results_that_nobody_waits_for_do_not_come_later() -> None:
    with Workers(size_of, 2) as pool:
        for low in range(0, 60, 10):
            pieces = [(i, b"x") for i in range(low, low + 10)]
            results = pool.map(pieces)
            assert [next(results)[0] for _ in range(3)] == [low, low + 1, low + 2]
            results.close()  # with others on their way


def test_where_there_is_no_fork_processes_are_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "sys", SimpleNamespace(platform="darwin"))
    with Workers(work, 2) as pool:
        assert len({pid for pid, _ in pool.map([("hold", 0)] * 10)} - {os.getpid()}) == 2 and pool.slots is None
        with pytest.raises(UserError, match="^mend it$"):
            list(pool.map([("hold", 0), ("user", 0), ("hold", 0)]))
        with pytest.raises(UserError, match="a worker process was killed"):
            list(pool.map([("hold", 0), ("killed", 0), ("hold", 0)]))


def test_spawned_processes_pass_large_pieces_and_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "sys", SimpleNamespace(platform="darwin"))
    large = [b"%d" % i + bytes(1 << 20) for i in range(9)]
    with Workers(size_of, 2) as pool:
        assert list(pool.map(enumerate(large))) == [(i, content[::-1]) for i, content in enumerate(large)]


def sleeping(piece: tuple[Path, float]) -> int:
    path, seconds = piece
    path.write_text(str(os.getpid()))
    time.sleep(seconds)
    return os.getpid()


@linux_only
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    parent = os.fork()
    if not parent:
        with Workers(sleeping, 2) as pool:
            for _ in pool.map([(tmp_path / str(i), 0.2) for i in range(1000)]):
                pass
        os._exit(0)
    while len(list(tmp_path.iterdir())) < 4:
        time.sleep(0.05)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    time.sleep(1)
    count = len(list(tmp_path.iterdir()))
    pids = {path.read_text() for path in tmp_path.iterdir()}
    assert len(pids) == 2 and count < 10 and not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@linux_only
def test_growth_is_of_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOKED_EVERY", 1)
    growth = Growth()
    assert allocated_bytes() is not None and not growth.exceeds(1 << 20)
    kept = bytearray(b"x" * (12 << 20))
    assert growth.exceeds(17 << 20) and not growth.exceeds(17 << 20)  # 12 MB in two turns, and in three: 18 and 16
    del kept
    assert not growth.exceeds(1 << 20)


def test_what_is_in_use_is_looked_at_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    megabytes = [100, 102, 103, 104.5, 106, 90, 92, 94.5, *[90] * 12]
    occupied = iter([int(x * 2**20) for x in [100, *megabytes]])
    monkeypatch.setattr(memory, "private_bytes", lambda: next(occupied))
    monkeypatch.setattr(memory, "allocated_bytes", lambda: looks.append(1) or 10)
    growth, found = Growth(), []
    for _ in megabytes:
        before = len(looks)
        growth.exceeds(1)
        found.append(len(looks) - before)
    # Where four megabytes have come since the last look, or since there was least; and every 16th time.
    assert found == [0, 0, 0, 1, 0, 0, 0, 1, *[0] * 7, 1, 0, 0, 0, 0]


@linux_only
def test_what_is_free_between_what_is_in_use_is_given_back() -> None:
    trim()
    freed = Freed()
    freed.give_back()
    before = private_bytes()
    some = [bytes(60_000) for _ in range(1000)]  # each from the heap, below what is mapped by itself
    kept = some[::50]
    some.clear()
    full = private_bytes()
    freed.give_back()
    after = private_bytes()
    assert before and full and after and len(kept) == 20
    assert full - before > 40_000_000 and after - before < 10_000_000
