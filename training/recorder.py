"""Sums -> metrics.jsonl, TensorBoard, Weights & Biases and the progress bar. Rank 0 alone writes; all ranks add up."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.schema import Config
from training.measures import Clock, Logger, MetricsFile, flops_per_token
from training.module import TrainingModule
from training.ranks import largest_over_ranks
from utils.messages import UserError, progress


class Recorder:
    """Keeps the books of a run.

    Args:
        path: metrics.jsonl
        total: steps of the whole run
        writes: whether this process is rank 0
        make_loggers: called with the step that the run goes on from
    """

    def __init__(
        self, config: Config, path: Path, total: int, writes: bool, make_loggers: Callable[[int], Sequence[Logger]]
    ) -> None:
        self.config = config
        self.path = path
        self.total = total
        self.writes = writes
        self.make_loggers = make_loggers
        self.clock = Clock()
        self.tokens = 0
        self.overflows = 0
        self.flops_per_token = 0
        self.latest: dict[str, Any] = {}  # the last line of training
        self._training: TrainingModule | None = None
        self._logged: tuple[int, dict[str, float]] = (-1, {})  # step, and what was logged after it
        self._loggers: list[Logger] = []
        self._bar: Any = None
        self._bar_context: Any = None

    def open(self, training: TrainingModule, state: dict[str, Any]) -> None:
        """state: from `state`, of the checkpoint that the run goes on from; empty at the start"""
        self.clock = Clock(state.get("seconds", 0.0), state.get("in_window", 0.0))
        self.tokens = state.get("tokens", 0)
        self.overflows = state.get("overflows", 0)
        self.flops_per_token = flops_per_token(training.model)
        self._training = training
        if not self.writes:
            return
        self._loggers = [MetricsFile(self.path), *self.make_loggers(training.steps)]
        self._bar_context = progress("training", self.total, "steps", self.config.logging.plain_every_seconds)
        self._bar = self._bar_context.__enter__()
        self._bar.started -= self.clock.seconds  # earlier lives of the run count for its speed
        self._bar.done = training.steps

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        counted = {"tokens": self.tokens, "overflows": self.overflows}
        return {"seconds": self.clock.seconds, "in_window": self.clock.in_window, **counted}

    def close(self) -> None:
        """Also after an exception."""
        loggers, self._loggers = self._loggers, []
        for logger in loggers:
            logger.close()
        if self._bar_context is not None:
            self._bar_context.__exit__(None, None, None)
            self._bar_context = self._bar = None

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.advance(step - self._bar.done)

    def check(self, training: TrainingModule) -> None:
        """Waits for the device, and refuses to go on from weights that have gone wrong.

        Raises:
            UserError: a loss or gradient that is not finite, or a step without a target
        """
        sums = training.sums
        sums.fold()
        steps = [-float("inf") if step is None else -step for step in (sums.first_nonfinite, sums.scored_nothing)]
        nonfinite, nothing = (-number for number in largest_over_ranks(steps))
        size = self.config.trainer.global_batch_size
        step = int(min(nonfinite, nothing)) if min(nonfinite, nothing) < float("inf") else None
        if step is None:
            return
        where = f"step {step} (windows {(step - 1) * size} to {step * size - 1} in the order of the data)"
        if nothing <= nonfinite:
            raise UserError(
                f"no token is scored in the whole batch of {where}: are all prompts longer than data.max_seq_len?"
            )
        rate = self.config.optimizer.lr * training.schedule(step, [entry["monitor"] for entry in training.history])
        raise UserError(
            f"the loss or its gradient is not finite at {where}, learning rate {rate:.3g}; the checkpoints are of "
            "before. Try a lower optimizer.lr, a longer warm-up, or trainer.clip"
        )

    def write_training(self, training: TrainingModule) -> None:
        """One line for the steps since the last; nothing where there were none."""
        self.check(training)
        sums = training.sums.read()
        if not sums["steps"]:
            return
        targets, normal = sums["targets"], sums["steps"] - sums["overflows"]
        self.tokens += int(sums["tokens"])
        self.overflows += int(sums["overflows"])
        line = {
            **self._where("train", training),
            "loss": sums["nats"] / targets if targets else None,
            "accuracy": sums["correct"] / targets if targets else None,
            "learning_rate": training.optimizers(use_pl_optimizer=False).param_groups[0]["lr"],
            "grad_norm": sums["norm"] / normal if normal else None,
            "tokens_per_second": sums["tokens"] / max(self.clock.window(), 1e-9),
        }
        scaler = training.loss_scaler()
        if scaler is not None:
            line |= {"overflows": self.overflows, "loss_scale": scaler.get_scale()}
        self._write(line)
        self.latest = line
        if self._bar is not None:
            self._bar.update(
                f"loss {line['loss'] or float('nan'):.4f}, {line['tokens_per_second']:,.0f} tokens/s, "
                f"lr {line['learning_rate']:.1e}"
            )

    def write_validation(self, training: TrainingModule) -> None:
        """One line for each set."""
        not_yet_written = int(training.sums.over_ranks()["tokens"])
        for name, scores in training.scores.items():
            self._write({**self._where("validation", training, not_yet_written), "set": name, **scores})

    def write_logged(self, metrics: dict[str, float]) -> None:
        """What callbacks log, or an edited model.py by `self.log`. Only rank 0 is told: of tokens it knows its own."""
        if self._training is None:
            return
        step, training = self._training.steps, self._training
        before = self._logged[1] if self._logged[0] == step else {}  # of a kind and step the last line counts
        self._logged = (step, {**before, **metrics})
        training.sums.fold()
        not_yet_written = int(training.sums.totals["tokens"] * training.trainer.world_size)
        self._write({**self._logged[1], **self._where("logged", training, not_yet_written)})

    def _where(self, kind: str, training: TrainingModule, not_yet_written: int = 0) -> dict[str, Any]:
        tokens = self.tokens + not_yet_written
        return {
            "kind": kind,
            "step": training.steps,
            "tokens": tokens,
            "samples": training.steps * self.config.trainer.global_batch_size,
            "seconds": round(self.clock.seconds, 3),
            "flops": tokens * self.flops_per_token,
        }

    def _write(self, line: dict[str, Any]) -> None:
        for logger in self._loggers:
            logger.write(line)
