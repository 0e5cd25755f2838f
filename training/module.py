"""What every step needs and no recipe changes: the base of model.py's LightningModule.

counts of targets over ranks, sums of losses, scores of validation sets, the seed of dropout
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor

from configs import places
from configs.schema import Config
from models.interface import Loss, TrainableModel
from optim.build import Schedule
from training.measures import Batch, Sums, TrainingSums, input_tokens, model_inputs, scores_of
from training.ranks import added_over_ranks, seed_dropout, step_seed


class TrainingModule(L.LightningModule):
    """The state of a run, and the bookkeeping around its steps. `training/step_end.py` reads and writes it.

    Args:
        model: from `models.build.build_model`; any nn.Module with the methods of TrainableModel
        schedule: (update, history) -> fraction of `optimizer.lr`; None where nothing is trained
        decoding: arguments of `models.decoding.generate`, for the prompts of a test; None: it is only scored
    """

    def __init__(
        self,
        model: TrainableModel,
        config: Config,
        schedule: Schedule | None = None,
        decoding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model  # all that a checkpoint holds of weights
        self.config = config
        self.schedule = schedule
        self.decoding = decoding
        self.steps = 0  # updates made so far
        self.history: list[dict[str, Any]] = []  # of validations: training/history.py
        self.sums = TrainingSums()
        self.evaluated: dict[int, Sums] = {}  # by the number of the set
        self.scores: dict[str, dict[str, float]] = {}  # of the last validation or test, by the name of the set
        self.generated: list[tuple[int, Any]] = []  # (index of the sample, what was written) of the last test

    def loss_of(self, batch: Batch) -> Loss:
        """Nats, scored targets and correct ones of one batch."""
        return self.model.loss(model_inputs(batch))

    def logits_of(self, batch: Batch) -> Tensor:
        """-> (B, T, V)"""
        return self.model.logits(model_inputs(batch))

    def begin_step(self, microbatches: list[Batch]) -> tuple[int, Tensor]:
        """Seeds dropout, from (seed, step, rank) alone, so that a resumed run need not know what was drawn before.

        -> the number of this step, from 1; and () how many targets the whole global batch has, over all ranks
        """
        step = self.steps + 1
        seed_dropout(step_seed(self.config.seed, step, self.global_rank), self.device)
        return step, added_over_ranks(sum((batch["targets"] != -100).sum() for batch in microbatches))

    def last_one_synchronises(self, microbatches: list[Batch]) -> Iterator[tuple[Batch, AbstractContextManager]]:
        """Ranks exchange gradients once a step: in the backward pass of the last micro-batch."""
        alone = nullcontext if self.trainer.world_size == 1 else self.trainer.strategy.block_backward_sync
        for index, batch in enumerate(microbatches, start=1):
            yield batch, nullcontext() if index == len(microbatches) else alone()

    def note(self, step: int, loss: Loss, batch: Batch) -> None:
        """Adds a micro-batch to the sums, on the device: nothing waits for it."""
        self.sums.add(step, loss, input_tokens(batch))

    def end_step(self, step: int, scored: Tensor, norm: Tensor) -> None:
        """The weights are new. Where nothing was scored, or the norm is not finite, training stops at the next look."""
        scaler = self.loss_scaler()
        self.sums.end_step(step, scored, norm, None if scaler is None else scaler._scale)
        self.steps = step

    def loss_scaler(self) -> torch.amp.GradScaler | None:
        """Of float16, whose losses are multiplied by a scale, and gradients therefore too; else None."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def score(self, number: int, batch: Batch) -> None:
        """Adds a batch to what evaluation set `number` sums up to."""
        self.evaluated.setdefault(number, Sums()).add(self.loss_of(batch))

    def on_validation_epoch_start(self) -> None:
        """Forgets the sums of the validation before."""
        self.evaluated.clear()

    def on_validation_epoch_end(self) -> None:
        """Sums of all sets -> scores."""
        self.gather_scores(places.validation_names(self.config))

    def on_test_epoch_start(self) -> None:
        """Forgets sums and texts of earlier tests."""
        self.evaluated.clear()
        self.generated.clear()

    def on_test_epoch_end(self) -> None:
        """Sums of the split -> scores."""
        self.gather_scores([self.config.inference.split])

    def gather_scores(self, names: list[str]) -> None:
        """Sums over ranks -> self.scores. Logged too, so that other callbacks can watch '<set>/loss'."""
        read = [self.evaluated.get(number, Sums()).read() for number in range(len(names))]
        totals = added_over_ranks(torch.tensor(read, dtype=torch.float64)).tolist()
        self.scores = {name: scores_of(sums) for name, sums in zip(names, totals, strict=True)}
        for name, scores in self.scores.items():
            self.log(f"{name}/loss", scores["loss"], logger=False, sync_dist=True)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning writes this one 44 times a step; nn.Module's own way costs more than the rest of a small step.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)
