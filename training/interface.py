"""What this room asks of `model.py` and `dataset.py`, which import it and which it therefore cannot import."""

from typing import Any, Protocol

from torch import Tensor, nn

from optim.build import Schedule
from training.measures import TrainingSums


class TrainingModule(Protocol):
    """The LightningModule of model.py: a class of your own may stand in its place when it keeps these."""

    model: nn.Module  # what is trained, and all that a checkpoint holds of weights
    schedule: Schedule | None
    steps: int  # updates made so far
    history: list[dict[str, Any]]  # of validations: training/history.py
    sums: TrainingSums
    scores: dict[str, dict[str, float]]  # of the last validation, by the name of the set

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Lightning's."""

    def loss_scale(self) -> Tensor | None:
        """What float16 losses are multiplied by; None where they are not."""


class Seekable(Protocol):
    """The LightningDataModule of dataset.py."""

    start_step: int  # its batches begin after this step
