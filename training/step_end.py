"""What happens at a step's end, in this order, on every rank alike:

    sums read if due -> validation if due -> best written -> checkpoint if due -> stopped if asked

Lightning's own hooks would do this in another order (checkpoints before validation, a validation before every stop), so
this callback runs Lightning's validation loop itself, between two steps.
"""

import math
import time
from typing import Any

import pytorch_lightning as L
from torch import Tensor

from configs.schema import Config
from training.history import is_best, patience_is_over, validated_at, validation_is_due
from training.length import seconds_of
from training.measures import Clock
from training.module import TrainingModule
from training.ranks import largest_over_ranks
from training.recorder import Recorder
from training.run_state import RunState
from training.signals import Signals, Stopped
from utils.messages import UserError, info

# Batches of a validation between two looks at whether to abandon it, where ranks must agree on that.
LOOK_EVERY = 16


class Abandoned(Exception):
    """A validation was cut short by a signal."""


class StepEnd(L.Callback):
    """Runs validations, writes checkpoints, stops.

    Args:
        total: steps of the whole run
        recorder: where measures go
        state: the run's checkpoints
    """

    def __init__(self, config: Config, total: int, recorder: Recorder, state: RunState) -> None:
        self.config = config
        self.total = total
        self.recorder = recorder
        self.state = state
        self.signals = Signals()
        self.longest = math.inf if config.trainer.max_time is None else seconds_of(config.trainer.max_time)
        self.opened = self.last_checkpoint = time.monotonic()
        self.finished = False

    @property
    def clock(self) -> Clock:
        """The run's seconds."""
        return self.recorder.clock

    def on_fit_start(self, trainer: L.Trainer, training: TrainingModule) -> None:
        """Goes on from the newest whole checkpoint, if there is one."""
        self.recorder.open(training, self.state.restore(trainer, training))
        self.opened = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, training: TrainingModule) -> None:
        """Validates at step 0, or what was due when the run was killed; ends a run that was killed at its very end."""
        self.signals.listen()
        self.last_checkpoint = time.monotonic()
        self.clock.pause(self.last_checkpoint - self.opened)
        step, every = training.steps, self.config.trainer.validate_every
        if step == 0 and self.config.trainer.validate_at_start:
            if self.validate(trainer, training):
                self.recorder.write_validation(training)
                self.monitored(trainer, training)  # a misspelt name is told now, not after the first hour
        asked, out_of_time, *_ = self.agreed(trainer)
        last = step >= self.total or bool(out_of_time)
        due = last or validation_is_due(step, self.total, every)
        if step and due and not asked and not validated_at(training.history, step):
            self.validate_and_keep_best(trainer, training)
            asked, *_ = self.agreed(trainer)
        self.end_or_go_on(trainer, training, int(asked), last)

    def on_train_batch_end(self, trainer: L.Trainer, training: TrainingModule, *_: Any) -> None:
        """The order above."""
        step = training.steps
        self.recorder.advance(step)
        asked, out_of_time, told_to_end, minutes = self.agreed(trainer)
        last = step >= self.total or bool(out_of_time) or bool(told_to_end)
        if step % self.config.logging.every == 0 or last:
            self.recorder.write_training(training)
        if not asked and (last or validation_is_due(step, self.total, self.config.trainer.validate_every)):
            self.validate_and_keep_best(trainer, training)
            asked, _, told_to_end, _ = self.agreed(trainer)
            last = last or bool(told_to_end)
        every = self.config.checkpoints.every
        if not (last or asked) and ((every is not None and step % every == 0) or minutes):
            self.write_checkpoint(trainer, training)
        self.end_or_go_on(trainer, training, int(asked), last)

    def end_or_go_on(self, trainer: L.Trainer, training: TrainingModule, asked: int, last: bool) -> None:
        """Saves and leaves where a signal asks for it, else at the run's end, else returns."""
        if asked:
            self.write_checkpoint(trainer, training)
            trainer.strategy.barrier()
            raise Stopped(asked, training.steps)
        patience = self.config.trainer.early_stopping
        if patience_is_over(training.history, patience.patience, patience.min_delta):
            info(f"early stopping: no improvement in {patience.patience} validations")
            last = True
        if last:
            self.recorder.write_training(training)
            self.write_checkpoint(trainer, training)
            self.finished = True
            # Lightning ends the loop when this many steps are done; `should_stop` would validate once more.
            trainer.should_stop = False
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step

    def agreed(self, trainer: L.Trainer) -> list[float]:
        """-> the same on every rank: the signal (0: none), whether time is up, whether a callback wants to end, and
        whether a checkpoint is due by the clock."""
        minutes = self.config.checkpoints.every_minutes
        due = minutes is not None and time.monotonic() - self.last_checkpoint >= 60 * minutes
        here = [self.signals.received, self.clock.seconds >= self.longest, trainer.should_stop, due]
        return largest_over_ranks([float(number) for number in here])

    def validate(self, trainer: L.Trainer, training: TrainingModule) -> bool:
        """Runs Lightning's validation loop on every set. -> False where a signal cut it short, or there is no set."""
        self.recorder.check(training)
        begun = time.monotonic()
        loop = trainer.fit_loop.epoch_loop.val_loop
        connector = trainer._logger_connector
        first_iteration = connector._first_loop_iter  # the validation loop overwrites it, training reads it later
        trainer.validating = True
        try:
            loop.run()
            return bool(training.scores)
        except Abandoned:
            loop._on_evaluation_model_train()
            return False
        finally:
            trainer.training = True
            connector._first_loop_iter = first_iteration
            self.clock.pause(time.monotonic() - begun)

    def validate_and_keep_best(self, trainer: L.Trainer, training: TrainingModule) -> None:
        """A point of the history; the weights are kept where they are the best so far."""
        if not self.validate(trainer, training):
            return
        monitor = self.monitored(trainer, training)
        losses = {name: scores["loss"] for name, scores in training.scores.items()}
        training.history.append({"step": training.steps, "monitor": monitor, **losses})
        self.recorder.write_validation(training)
        if is_best(training.history):
            self.state.write_best(training)

    def monitored(self, trainer: L.Trainer, training: TrainingModule) -> float:
        """The metric that `checkpoints.monitor` names: '<set>/loss', '<set>/perplexity', or one that was logged."""
        name = self.config.checkpoints.monitor or f"{next(iter(training.scores))}/loss"
        found = {f"{of}/{metric}": value for of, scores in training.scores.items() for metric, value in scores.items()}
        found = {**{key: float(value) for key, value in trainer.callback_metrics.items()}, **found}
        if name not in found:
            raise UserError(f"checkpoints.monitor: no metric '{name}'; there are {', '.join(sorted(found))}")
        return found[name]

    def write_checkpoint(self, trainer: L.Trainer, training: TrainingModule) -> None:
        """All that the run needs to go on. Never of weights that have gone wrong."""
        self.recorder.check(training)
        begun = time.monotonic()
        self.state.write(trainer, training, self.recorder.state())
        self.last_checkpoint = time.monotonic()
        self.clock.pause(self.last_checkpoint - begun)

    def on_validation_batch_end(
        self, trainer: L.Trainer, training: TrainingModule, outputs: Tensor, batch: Any, index: int, number: int = 0
    ) -> None:
        """Abandons the validation if any rank has had a signal."""
        if trainer.world_size > 1 and index % LOOK_EVERY:
            return
        if largest_over_ranks([self.signals.received])[0]:
            raise Abandoned

    def teardown(self, trainer: L.Trainer, training: TrainingModule, stage: str) -> None:
        """Also after an exception."""
        self.signals.ignore()
        self.recorder.close()
