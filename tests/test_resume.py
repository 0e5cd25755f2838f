"""A run that is killed at any moment and started again by the same command is the run that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as L

from tests.stand_ins import TinyData, TinyRun, tiny_config
from training import checkpoints
from training.signals import Stopped
from utils.messages import UserError

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "trainer": {"max_steps": 30, "micro_batch_size": 4, "validate_every": 7},
    "checkpoints": {"every": 4},
    "logging": {"every": 3},
}


def start(folder: Path, **more: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.stand_ins", str(folder), json.dumps(SETTINGS | more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(folder: Path, **more: object) -> None:
    process = start(folder, **more)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def lines(folder: Path) -> dict:
    return TinyRun(folder, tiny_config()).lines()


def wait_for(folder: Path, text: str, process: subprocess.Popen) -> None:
    """Until this stands in metrics.jsonl."""
    for _ in range(3000):
        if (folder / "metrics.jsonl").exists() and text in (folder / "metrics.jsonl").read_text():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    raise AssertionError(f"never saw {text}")


def killed_and_finished(folder: Path, undisturbed: dict, seconds: float) -> None:
    process = start(folder, pause=0.02)
    wait_for(folder, '"step": 0', process)
    time.sleep(seconds)
    process.kill()
    process.wait()
    finish(folder)
    assert lines(folder) == undisturbed, f"killed {seconds} s after the first line"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder)
    return lines(folder)


def test_killed_once(tmp_path: Path, undisturbed: dict) -> None:
    killed_and_finished(tmp_path, undisturbed, random.uniform(0.2, 1.2))
    assert {step for kind, step, _ in undisturbed if kind == "validation"} == {0, 7, 14, 21, 28, 30}


@pytest.mark.proof
@pytest.mark.parametrize("time", range(20))
def test_killed_twenty_times(tmp_path: Path, undisturbed: dict, time: int) -> None:
    killed_and_finished(tmp_path, undisturbed, random.uniform(0.0, 1.5))


class Signal(L.Callback):
    """Sends this very process a signal in the middle of step 5."""

    def __init__(self, signum: signal.Signals) -> None:
        self.signum = signum

    def on_before_optimizer_step(self, trainer: L.Trainer, training: L.LightningModule, _: object) -> None:
        if training.steps == 4:
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_waits_for_the_steps_end(tmp_path: Path, signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    run = TinyRun(tmp_path / "stopped", tiny_config(), callbacks=[Signal(signum)])
    with pytest.raises(Stopped) as stopped:
        run.fit()
    assert stopped.value.signum == signum and signal.getsignal(signum) is before
    assert checkpoints.find(tmp_path / "stopped" / "checkpoints", "last").name == "step-00000005"
    again, whole = (TinyRun(tmp_path / name, tiny_config()).fit() for name in ("stopped", "whole"))
    assert again.lines() == whole.lines()


def test_a_signal_leaves_with_its_code(tmp_path: Path, undisturbed: dict) -> None:
    signum = signal.SIGTERM
    process = start(tmp_path, pause=0.05)
    wait_for(tmp_path, '"step": 6', process)
    process.send_signal(signum)
    assert process.wait(timeout=60) == 128 + signum
    stopped_at = checkpoints.read_state(checkpoints.find(tmp_path / "checkpoints", "last"))["step"]
    assert 6 <= stopped_at < 30
    finish(tmp_path)
    assert lines(tmp_path) == undisturbed


def stop_at(step: int, run: TinyRun) -> None:
    """A signal comes during the validation of this step."""
    original = run.training.validation_step

    def validation_step(*arguments: object) -> None:
        if run.training.steps == step:
            run.step_end.signals.received = signal.SIGUSR1
        original(*arguments)

    run.training.validation_step = validation_step


def test_a_validation_that_was_cut_short_runs_first_on_resuming(tmp_path: Path) -> None:
    whole = TinyRun(tmp_path / "whole", tiny_config()).fit()
    for step in (8, 12):  # in the middle, and the one at the end
        folder = tmp_path / str(step)
        run = TinyRun(folder, tiny_config())
        stop_at(step, run)
        with pytest.raises(Stopped):
            run.fit()
        assert run.training.steps == step and [entry["step"] for entry in run.training.history][-1] == step - 4
        assert run.training.training, "the model was left in evaluation"
        again = TinyRun(folder, tiny_config()).fit()
        assert again.training.history == whole.training.history
        assert again.lines() == whole.lines()


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    first = TinyRun(tmp_path, tiny_config()).fit()
    before = first.lines()
    again = TinyRun(tmp_path, tiny_config()).fit()
    assert again.lines() == before and again.training.steps == 12


def test_other_data_under_a_run_is_refused(tmp_path: Path) -> None:
    TinyRun(tmp_path, tiny_config()).fit()
    run = TinyRun(tmp_path, tiny_config(), data=TinyData(tiny_config()))
    run.step_end.state.facts = {"data": "other"}
    with pytest.raises(UserError, match="other data; --restart"):
        run.fit()
