"""What happens at each step: the file to edit for another recipe. `training_step` is the whole of it.

    micro-batches of one step -> updated weights        batches of a validation or test set -> scores

A *step* is one update of the weights. Lightning hands over this rank's share of a step's windows as a list of
micro-batches, so every interval in the config counts steps. Sums stay on the device; `training/step_end.py` reads them.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor

from configs import places
from configs.schema import Config
from models.decoding import generate
from models.interface import Loss, TrainableModel
from optim.build import Schedule, build_optimizer
from training.measures import Sums, TrainingSums, input_tokens, model_inputs, scores_of
from training.ranks import added_over_ranks, seed_dropout, step_seed

Batch = dict[str, Tensor]


class LanguageModelTraining(L.LightningModule):
    """What happens at each step. The model itself knows nothing of it.

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
        self.model = model
        self.config = config
        self.schedule = schedule
        self.decoding = decoding
        self.steps = 0  # updates made so far
        self.history: list[dict[str, Any]] = []  # of validations: training/history.py
        self.sums = TrainingSums()
        self.evaluated: dict[int, Sums] = {}  # by the number of the set
        self.scores: dict[str, dict[str, float]] = {}  # of the last validation or test, by the name of the set
        self.generated: list[tuple[int, Any]] = []  # (index of the sample, what was written) of the last test

    def training_step(self, microbatches: list[Batch], _: int) -> None:
        """One update, from the mean loss over all targets of the global batch, whoever holds them."""
        step = self.steps + 1
        seed_dropout(step_seed(self.config.seed, step, self.global_rank), self.device)  # the same after a resume
        scored = self.scored_targets(microbatches)
        for batch, synchronised in self.last_one_synchronises(microbatches):
            with synchronised:
                loss = self.loss_of(batch)
                self.manual_backward(loss.nats * self.trainer.world_size / scored)  # DDP takes the mean over ranks
            self.sums.add(step, loss, input_tokens(batch))
        norm = self.clip_gradient(self.config.trainer.clip)
        self.set_learning_rate(step)
        self.optimizers().step()
        self.optimizers().zero_grad()
        self.sums.end_step(step, scored, norm, self.loss_scale())
        self.steps = step

    def validation_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Scores a batch of the validation set of this number."""
        self.evaluated.setdefault(dataloader_idx, Sums()).add(self.loss_of(batch))

    def test_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Scores a batch of the test set, and continues its prompts where it has some."""
        self.evaluated.setdefault(dataloader_idx, Sums()).add(self.loss_of(batch))
        if self.decoding is not None and "prompt_ids" in batch:
            samples = batch["index"].tolist()  # draws depend on the sample, not on its row
            prompts = batch["prompt_ids"], batch["prompt_mask"]
            written = generate(self.model, *prompts, prompt_numbers=samples, **self.decoding)
            self.generated.extend(zip(samples, written, strict=True))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.config.optimizer, self.model)

    def loss_of(self, batch: Batch) -> Loss:
        """Nats, scored targets and correct ones of one batch."""
        return self.model.loss(model_inputs(batch))

    def scored_targets(self, microbatches: list[Batch]) -> Tensor:
        """-> () how many targets the whole global batch has, over all ranks. Where it has none, training stops."""
        scored = sum((batch["targets"] != -100).sum() for batch in microbatches)
        return added_over_ranks(scored)

    def last_one_synchronises(self, microbatches: list[Batch]) -> Iterator[tuple[Batch, AbstractContextManager]]:
        """Ranks exchange gradients once a step: in the backward pass of the last micro-batch."""
        alone = nullcontext if self.trainer.world_size == 1 else self.trainer.strategy.block_backward_sync
        for index, batch in enumerate(microbatches, start=1):
            yield batch, nullcontext() if index == len(microbatches) else alone()

    def clip_gradient(self, largest: float | None) -> Tensor:
        """-> () the gradient's norm before clipping"""
        optimizer = self.optimizers(use_pl_optimizer=False)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:  # float16: gradients are still multiplied by the scale
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if largest is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    def loss_scale(self) -> Tensor | None:
        """-> () what float16 losses are multiplied by; None where they are not"""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return None if scaler is None else scaler._scale

    def set_learning_rate(self, step: int) -> None:
        """A function of the step and the validations so far; nothing to save, nothing to restore."""
        fraction = self.schedule(step, [entry["monitor"] for entry in self.history])
        for group in self.optimizers(use_pl_optimizer=False).param_groups:
            group["lr"] = self.config.optimizer.lr * fraction

    def on_validation_epoch_start(self) -> None:
        self.evaluated.clear()

    def on_validation_epoch_end(self) -> None:
        self.gather_scores(places.validation_names(self.config))

    def on_test_epoch_start(self) -> None:
        self.evaluated.clear()
        self.generated.clear()

    def on_test_epoch_end(self) -> None:
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
