"""What else must be as it was when a run goes on: the optimizer's precision, callbacks, the throughput."""

import os
from pathlib import Path
from signal import SIGUSR1

import pytest
import pytorch_lightning as L
import torch

from tests.stand_ins import TinyRun, tiny_config
from training.measures import Clock
from training.signals import Stopped


class Counting(L.Callback):
    """Counts steps and keeps a tensor; asks the process to stop after step 5."""

    def __init__(self, stops: bool = False) -> None:
        self.stops = stops
        self.seen, self.last = 0, torch.zeros(2)

    def on_train_batch_end(self, trainer: L.Trainer, training: L.LightningModule, *_: object) -> None:
        self.seen, self.last = self.seen + 1, torch.full((2,), float(training.steps))
        if self.stops and training.steps == 5:
            os.kill(os.getpid(), SIGUSR1)

    def state_dict(self) -> dict[str, object]:
        return {"seen": self.seen, "last": self.last}

    def load_state_dict(self, state: dict) -> None:
        self.seen, self.last = state["seen"], state["last"]


def test_callbacks_go_on_from_their_state(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        TinyRun(tmp_path, tiny_config(), callbacks=[Counting(stops=True)]).fit()
    again = Counting()
    run = TinyRun(tmp_path, tiny_config(), callbacks=[again])
    run.trainer.fit_loop.epoch_loop.max_steps = 0
    run.fit()
    assert again.seen == 5 and again.last.tolist() == [5, 5]


def test_an_optimizers_own_precision_stays(tmp_path: Path) -> None:
    """NAdam keeps a product of 0-dimensional float32 beside weights in bfloat16."""
    config = tiny_config({"precision": "bf16-true"}, optimizer={"name": "torch.optim.NAdam"})
    whole = TinyRun(tmp_path / "whole", config).fit()
    with pytest.raises(Stopped):
        TinyRun(tmp_path / "stopped", config, callbacks=[Counting(stops=True)]).fit()
    again = TinyRun(tmp_path / "stopped", config).fit()
    assert again.lines() == whole.lines()
    weight = next(again.training.parameters())
    state, ours = (run.trainer.optimizers[0].state[next(run.training.parameters())] for run in (whole, again))
    assert weight.dtype == torch.bfloat16 and state["mu_product"].dtype == torch.float32
    assert all(torch.equal(state[name], ours[name]) and state[name].dtype == ours[name].dtype for name in state)


def test_the_seconds_of_a_window_are_those_of_both_lives() -> None:
    clock = Clock(before=100.0, in_window=3.0)
    assert clock.seconds == pytest.approx(100.0, abs=0.5)
    assert clock.window() == pytest.approx(3.0, abs=0.5)
    assert clock.window() == pytest.approx(0.0, abs=0.5)
