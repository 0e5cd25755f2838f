"""Work in a child: its results and errors come through; one that has grown is replaced, one that is killed is told."""

import os
import signal

import pytest

from corpus import renewing
from corpus.renewing import Renewed
from corpus.workers import Workers
from utils.messages import UserError

held: list[bytearray] = []


def work(what: str, size: int = 0) -> tuple[int, int]:
    """-> its process, and how much this process holds already"""
    if what == "user":
        raise UserError("mend it")
    if what == "bug":
        raise KeyError("unknown")
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    before = sum(map(len, held))
    held.append(bytearray(b"x" * size))
    return os.getpid(), before


def test_what_a_child_keeps_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "MOST_GROWTH", 8 << 20)
    renewed = Renewed(work)
    found = [renewed("hold", 3 << 20) for _ in range(12)]
    renewed.end()
    pids = [pid for pid, _ in found]
    assert os.getpid() not in pids and not held
    assert 3 <= len(set(pids)) <= 6  # a few calls each: 3 MB at a time, up to 8 MB beyond the first
    for pid in set(pids):
        own = [kept >> 20 for one, kept in found if one == pid]
        assert own == [3 * i for i in range(len(own))]  # nothing of the one before
    for pid in set(pids):
        assert not os.path.exists(f"/proc/{pid}")


def test_errors_come_from_the_child_and_it_goes_on() -> None:
    renewed = Renewed(work)
    pid, _ = renewed("hold")
    with pytest.raises(UserError, match="^mend it$"):
        renewed("user")
    with pytest.raises(KeyError) as caught:
        renewed("bug")
    assert "in work" in caught.value.__notes__[0]  # where it happened
    assert renewed("hold")[0] == pid
    renewed.end()
    assert renewed("hold")[0] != pid  # a new one
    renewed.end()


def test_a_child_that_is_killed_is_told_in_one_line() -> None:
    with Workers(work, 2) as pool, pytest.raises(UserError, match="a worker process was killed, perhaps for lack"):
        list(pool.map(["hold"] * 5 + ["killed"] + ["hold"] * 5))
