"""Other views of metrics.jsonl: TensorBoard and Weights & Biases, each opened when there is something to write."""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger as LightningLogger
from pytorch_lightning.utilities import rank_zero_only

from configs.schema import Config
from training.measures import Logger
from utils.files import user_errors
from utils.messages import UserError

# Which of a line's numbers say where it stands, rather than what was measured.
AXES = ("step", "tokens", "samples", "seconds", "flops")


def scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """A line of metrics.jsonl -> ('train/loss', 3.2), …, ('validation/dev_a/loss', 3.4), …"""
    parts = [line["kind"]] + ([line["set"]] if "set" in line and line["set"] != line["kind"] else [])
    for name, value in line.items():
        if isinstance(value, int | float) and name not in AXES:
            yield "/".join([*parts, name]), float(value)


class FromLightning(LightningLogger):
    """What callbacks and `self.log` tell Lightning -> a line of kind `logged`, and so every other view."""

    def __init__(self, write: Callable[[dict[str, float]], None]) -> None:
        super().__init__()
        self._tell = write

    @property
    def name(self) -> str:
        """Lightning asks for it; nothing is written under it."""
        return "liftoff"

    @property
    def version(self) -> str:
        """The same."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """step: Lightning's, which begins at 0; ours is that of the weights."""
        self._tell({name: float(value) for name, value in metrics.items() if name != "epoch"})

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The whole config lies in the run folder, and W&B is given it."""


class TensorBoard:
    """Files in runs/<name>/tensorboard, with the step as the axis."""

    def __init__(self, folder: Path, goes_on_after: int) -> None:
        self.folder = folder
        self.goes_on_after = goes_on_after
        self._writer: Any = None

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second

            # What the run wrote past this step before it was killed is hidden: it is about to be written again.
            purge = self.goes_on_after + 1 if self.goes_on_after else None
            with user_errors(self.folder):
                self._writer = SummaryWriter(self.folder, purge_step=purge, max_queue=1000)
        with user_errors(self.folder):
            for name, value in scalars(line):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Writes what is still held back."""
        if self._writer is not None:
            with user_errors(self.folder):
                self._writer.close()


class WandB:
    """A run of Weights & Biases, with the whole config; a run that goes on goes on there under the same id.

    arguments: of wandb.init
    """

    def __init__(self, folder: Path, arguments: dict[str, Any], config: Config) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "logging.wandb: wandb is not installed; pip install wandb, or set logging.wandb: null"
            ) from error
        name = folder / "wandb_id.txt"
        kept = name.read_text().strip() if name.exists() else ""
        identity = arguments.get("id") or kept or secrets.token_hex(4)
        name.write_text(identity + "\n")
        os.environ.setdefault("WANDB_SILENT", "true")
        given = {"name": config.name, "dir": str(folder), "config": config.model_dump(), "resume": "allow", **arguments}
        try:
            self.run = wandb.init(**{**given, "id": identity})
        except TypeError as error:
            raise UserError(f"logging.wandb: wandb.init refuses its arguments: {error}") from error
        except wandb.errors.Error as error:
            raise UserError(f"logging.wandb: {error}; `mode: offline` needs no network and no account") from error
        # Steps repeat when a run goes on after a kill, which W&B's own counter does not allow.
        self.run.define_metric("*", step_metric="step")

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        self.run.log(dict(scalars(line)) | {axis: line[axis] for axis in AXES})

    def close(self) -> None:
        """Writes what is still held back."""
        self.run.finish()


def make_loggers(config: Config, folder: Path, goes_on_after: int) -> list[Logger]:
    """folder: runs/<name>. goes_on_after: the step of the checkpoint, 0 at the start."""
    loggers: list[Logger] = []
    if config.logging.tensorboard:
        loggers.append(TensorBoard(folder / "tensorboard", goes_on_after))
    if config.logging.wandb is not None:
        loggers.append(WandB(folder, config.logging.wandb, config))
    return loggers
