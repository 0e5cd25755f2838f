"""Two processes are one: the same losses and weights, and one word for both when they stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.stand_ins import TinyRun, tiny_config
from training import checkpoints

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "trainer": {"max_steps": 20, "micro_batch_size": 2, "validate_every": 10},
    "logging": {"every": 1},
    "dropout": 0.0,
}


def start(folder: Path, devices: int, launcher: tuple[str, ...] = (), pause: float = 0.0) -> subprocess.Popen:
    settings = SETTINGS | {"trainer": SETTINGS["trainer"] | {"devices": devices}, "pause": pause}
    program = [*launcher, "-m", "tests.stand_ins"] if launcher else [sys.executable, "-m", "tests.stand_ins"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*program, str(folder), json.dumps(settings)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def same(one: Path, two: Path) -> None:
    """Every line of two processes and of one, and the weights after 20 steps, to 1e-5."""
    mine, theirs = TinyRun(one, tiny_config()).lines(), TinyRun(two, tiny_config()).lines()
    assert mine.keys() == theirs.keys() and len(mine) == 20 + 3
    for key, line in mine.items():
        for name, value in line.items():
            if name == "targets" and key[0] == "validation":
                continue  # the stand-in's validation sets are not divided over ranks
            assert value == theirs[key][name] or abs(value - theirs[key][name]) < 1e-5 * max(1, abs(value)), (key, name)
    paths = [checkpoints.find(folder / "checkpoints", "last") for folder in (one, two)]
    weights = [checkpoints.read_tensors(path, "model") for path in paths]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=1e-5 * tensor.abs().max().item())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    finish(start(folder, devices=1))
    return folder


def test_two_processes_equal_one(tmp_path: Path, alone: Path) -> None:
    finish(start(tmp_path, devices=2))
    same(alone, tmp_path)


def test_torchrun_stopped_by_one_rank_and_gone_on(tmp_path: Path, alone: Path) -> None:
    """TERM reaches rank 1 alone: both must stop at the same step, rank 0 must save."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    process = start(tmp_path, 2, launcher, pause=0.05)
    children: list[int] = []
    for _ in range(1500):
        started = (tmp_path / "metrics.jsonl").exists() and '"step": 3' in (tmp_path / "metrics.jsonl").read_text()
        if started:
            children = [int(n) for n in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.04)
    rank_one = [n for n in children if b"LOCAL_RANK=1" in Path(f"/proc/{n}/environ").read_bytes()]
    os.kill(rank_one[0], signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    stopped = checkpoints.read_state(checkpoints.find(tmp_path / "checkpoints", "last"))["step"]
    assert 3 <= stopped < 20
    finish(start(tmp_path, devices=2))
    same(alone, tmp_path)
