"""The state of a training run <-> its checkpoints: what is saved, and how a run goes on from it."""

from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as L
from torch import Tensor
from torch.optim import Optimizer

from training import checkpoints
from training.module import TrainingModule
from training.ranks import by_rank_zero
from utils.messages import UserError, info


class Seekable(Protocol):
    """The LightningDataModule of dataset.py."""

    start_step: int  # its batches begin after this step

    def state_after(self, steps: int) -> Any:
        """What must be known to go on after so many steps, as json holds it; None where the steps say it all."""

    def restore(self, state: Any) -> None:
        """state: what `state_after` gave."""


class RunState:
    """Writes and restores checkpoints of a run. Rank 0 writes and chooses; every rank reads.

    Args:
        folder: runs/<name>/checkpoints
        keep_last: newest checkpoints kept
        facts: what must be the same when a run goes on, such as the fingerprint of its data
    """

    def __init__(self, folder: Path, keep_last: int, data: Seekable, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.data = data
        self.facts = facts

    def restore(self, trainer: L.Trainer, training: TrainingModule) -> dict[str, Any]:
        """Goes on from the newest whole checkpoint. -> the recorder's state in it; empty where the run only begins"""
        chosen = by_rank_zero(self._choose)
        if chosen is None:
            return {}
        path = Path(chosen)
        state = checkpoints.read_state(path)
        changed = [name for name, value in self.facts.items() if state["facts"].get(name) != value]
        if changed:
            raise UserError(f"{path} is of a run with other {' and '.join(changed)}; --restart begins anew")
        checkpoints.load_weights(training.model, path)
        tensors = checkpoints.read_tensors(path, "optimizer")
        saved = checkpoints.unpack(state["optimizers"], tensors)
        if len(saved) != len(trainer.optimizers):
            raise UserError(f"{path} has the state of {len(saved)} optimizers, not of {len(trainer.optimizers)}")
        for optimizer, its_state in zip(trainer.optimizers, saved, strict=True):
            try:
                _load(optimizer, its_state)
            except (ValueError, KeyError) as error:
                raise UserError(f"{path} is of another optimizer or model: {error}") from error
        if state["precision"]:
            trainer.precision_plugin.load_state_dict(state["precision"])
        of_callbacks = checkpoints.unpack(state["callbacks"], tensors)
        for callback in trainer.callbacks:
            if callback.state_key in of_callbacks:
                callback.load_state_dict(of_callbacks[callback.state_key])
        training.steps, training.history = state["step"], state["history"]
        training.sums.restore(state["sums"], trainer.global_rank)
        self.data.start_step = state["step"]
        self.data.restore(state.get("data"))
        _set_lightning_counters(trainer, state["step"])
        info(f"goes on after step {state['step']} from {path}")
        return state["recorder"]

    def _choose(self) -> str | None:
        checkpoints.sweep(self.folder)
        path = checkpoints.newest(self.folder)
        return None if path is None else str(path)

    def write(self, trainer: L.Trainer, training: TrainingModule, recorder: dict[str, Any]) -> None:
        """All that `restore` needs. The older ones go once it is whole."""
        training.sums.fold()
        tensors: dict[str, Any] = {}
        of_callbacks = {callback.state_key: callback.state_dict() for callback in trainer.callbacks}
        state = {
            "step": training.steps,
            "history": training.history,
            "recorder": recorder,
            "sums": training.sums.over_ranks(),
            "optimizers": checkpoints.pack([o.state_dict() for o in trainer.optimizers], "optimizers", tensors),
            "callbacks": checkpoints.pack({k: v for k, v in of_callbacks.items() if v}, "callbacks", tensors),
            "precision": trainer.precision_plugin.state_dict(),
            "data": self.data.state_after(training.steps),
            "facts": self.facts,
        }
        by_rank_zero(lambda: self._write("step", training, {"optimizer": tensors}, state))

    def write_best(self, training: TrainingModule) -> None:
        """Only the weights, with the metric that was measured on exactly these."""
        state = {"step": training.steps, "history": training.history, "facts": self.facts}
        by_rank_zero(lambda: self._write("best", training, {}, state))

    def _write(self, kind: str, training: TrainingModule, parts: dict[str, Any], state: dict[str, Any]) -> None:
        parts = {"model": checkpoints.model_tensors(training.model), **parts}
        written = checkpoints.write(self.folder, checkpoints.name_of(kind, training.steps), parts, state)
        checkpoints.keep_newest(written, self.keep_last if kind == "step" else 1)


def _load(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """torch rounds what an optimizer keeps in float32 beside weights in bfloat16 (NAdam does); here it stays."""
    optimizer.load_state_dict(saved)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, kept in saved["state"].items():
        own = optimizer.state[weights[number]]
        for name, value in kept.items():
            if isinstance(value, Tensor) and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device)


def _set_lightning_counters(trainer: L.Trainer, step: int) -> None:
    """So that other callbacks and loggers see the right `trainer.global_step`."""
    loop = trainer.fit_loop.epoch_loop
    for progress in (loop.manual_optimization.optim_step_progress.total, loop.batch_progress.total):
        progress.ready = progress.completed = step
    loop.batch_progress.total.started = loop.batch_progress.total.processed = step
    loop._batches_that_stepped = step
