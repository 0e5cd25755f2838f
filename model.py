"""What happens at each step: the file to edit for another recipe. `training_step` is the whole of it.

    micro-batches of one step -> updated weights        batches of a validation or test set -> scores

A *step* is one update of the weights. Lightning hands over this rank's share of a step's windows as a list of
micro-batches, so every interval in the config counts steps. What surrounds these methods is in training/module.py;
what happens at a step's end, in training/step_end.py.
"""

import torch
from torch import Tensor

from models.decoding import generate
from optim.build import build_optimizer
from training.measures import Batch
from training.module import TrainingModule


class LanguageModelTraining(TrainingModule):
    """What happens at each step. The model itself knows nothing of it."""

    def training_step(self, microbatches: list[Batch], _: int) -> None:
        """One update, from the mean loss over all targets of the global batch, whoever holds them."""
        step, scored = self.begin_step(microbatches)
        for batch, synchronised in self.last_one_synchronises(microbatches):
            with synchronised:
                loss = self.loss_of(batch)
                self.manual_backward(loss.nats * self.trainer.world_size / scored)  # DDP takes the mean over ranks
            self.note(step, loss, batch)
        norm = self.clip_gradient(self.config.trainer.clip)
        self.set_learning_rate(step)
        self.optimizers().step()
        self.optimizers().zero_grad()
        self.end_step(step, scored, norm)

    def clip_gradient(self, largest: float | None) -> Tensor:
        """-> () the gradient's norm before clipping"""
        optimizer, scaler = self.optimizers(use_pl_optimizer=False), self.loss_scaler()
        if scaler is not None:
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if largest is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    def set_learning_rate(self, step: int) -> None:
        """A function of the step and the validations so far; nothing to save, nothing to restore."""
        fraction = self.schedule(step, [entry["monitor"] for entry in self.history])
        for group in self.optimizers(use_pl_optimizer=False).param_groups:
            group["lr"] = self.config.optimizer.lr * fraction

    def validation_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Scores a batch of the validation set of this number."""
        self.score(dataloader_idx, batch)

    def test_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Scores a batch of the test set, and continues its prompts where it has some."""
        self.score(dataloader_idx, batch)
        if self.decoding is not None and "prompt_ids" in batch:
            samples = batch["index"].tolist()  # draws depend on the sample, not on its row
            prompts = batch["prompt_ids"], batch["prompt_mask"]
            written = generate(self.model, *prompts, prompt_numbers=samples, **self.decoding)
            self.generated.extend(zip(samples, written, strict=True))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Lightning asks for it when the weights are where they are trained."""
        return build_optimizer(self.config.optimizer, self.model)
