"""The step: one gradient, however the batch is cut; sums that come out the same whenever they are read."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.interface import Loss
from tests.stand_ins import TinyModel, TinyRun, tiny_config, windows
from training.measures import TrainingSums, flops_per_token, input_tokens
from training.ranks import step_seed
from utils.messages import UserError


def gradients(model: TinyModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


class KeepGradients:
    """Stands in for the clipping: sees what the step has accumulated, before it is changed."""

    def __init__(self, run: TinyRun) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.clip = run.training.clip_gradient
        run.training.clip_gradient = lambda largest: self.look(run, largest)

    def look(self, run: TinyRun, largest: float | None) -> Tensor:
        self.seen.append({name: p.grad.clone() for name, p in run.training.model.named_parameters()})
        return self.clip(largest)


@pytest.mark.parametrize("micro", [8, 4, 1])
def test_the_gradient_is_that_of_the_mean_over_all_scored_targets(tmp_path: Path, micro: int) -> None:
    config = tiny_config({"max_steps": 1, "micro_batch_size": micro, "validate_at_start": False})
    run = TinyRun(tmp_path, config, model=TinyModel())
    kept = KeepGradients(run)
    run.fit()
    model = TinyModel()
    loss = model.loss(windows(range(8)))
    expected = gradients(model, loss.nats / loss.tokens)
    for name, gradient in expected.items():
        torch.testing.assert_close(kept.seen[0][name], gradient, rtol=0, atol=1e-5 * gradient.abs().max().item())


def test_the_step_is_that_of_torch(tmp_path: Path) -> None:
    """Twelve steps against a bare loop: clipping, schedule, decay groups and all."""
    config = tiny_config({"validate_at_start": False, "micro_batch_size": 2, "clip": 0.5})
    run = TinyRun(tmp_path, config, model=TinyModel()).fit()
    model = TinyModel()
    matrices = [model.mixing.weight]
    vectors = [p for p in model.parameters() if p is not model.mixing.weight]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.1)
    for step in range(12):
        loss = model.loss(windows(range(8 * step, 8 * step + 8)))
        (loss.nats / loss.tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * run.training.schedule(step + 1, ())
        optimizer.step()
        optimizer.zero_grad()
    for mine, theirs in zip(run.training.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_lightning_counts_steps_once(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, tiny_config({"micro_batch_size": 2})).fit()
    assert run.training.steps == run.trainer.global_step == 12


def test_dropout_depends_on_seed_step_and_rank_alone() -> None:
    seeds = {step_seed(*key) for key in [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]}
    assert len(seeds) == 4 and all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(0, 1, 0) == step_seed(0, 1, 0)


def loss_of(nats: float) -> Loss:
    return Loss(torch.tensor(nats), torch.tensor(2), torch.tensor(1))


def test_sums_do_not_depend_on_when_they_are_folded() -> None:
    often, once = TrainingSums(), TrainingSums()
    for step in range(1, 8):
        for sums in (often, once):
            sums.add(step, loss_of(0.1 * step), 5)
            sums.end_step(step, torch.tensor(2), torch.tensor(0.3 * step), None)
        often.fold()
    assert often.read() == once.read()
    assert often.read()["steps"] == 0


def test_what_is_not_finite_is_noted_with_its_step() -> None:
    sums = TrainingSums()
    for step, nats, norm in [(1, 1.0, 1.0), (2, 1.0, math.inf), (3, math.nan, 1.0)]:
        sums.add(step, loss_of(nats), 5)
        sums.end_step(step, torch.tensor(2), torch.tensor(norm), None)
    sums.fold()
    assert sums.first_nonfinite == 2


def test_an_overflow_of_float16_is_counted_until_the_scale_is_used_up() -> None:
    sums = TrainingSums()
    for step, scale in [(1, 65536.0), (2, 32768.0)]:
        sums.add(step, loss_of(math.inf), 5)
        sums.end_step(step, torch.tensor(2), torch.tensor(math.nan), torch.tensor(scale))
    sums.fold()
    assert sums.first_nonfinite is None and sums.totals["overflows"] == 2 and sums.totals["nats"] == 0
    sums.end_step(3, torch.tensor(2), torch.tensor(math.nan), torch.tensor(0.5))
    sums.add(3, loss_of(1.0), 5)
    sums.fold()
    assert sums.first_nonfinite == 3


def test_tokens_that_count() -> None:
    ids = torch.zeros(2, 4, dtype=torch.long)
    assert input_tokens({"input_ids": ids}) == 8
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    assert int(input_tokens({"input_ids": ids, "attention_mask": mask})) == 6
    targets = torch.tensor([[1, -100], [1, 2]])
    assert (
        int(input_tokens({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids, "targets": targets})) == 9
    )


def test_flops_are_six_a_weight_that_is_multiplied() -> None:
    assert flops_per_token(TinyModel()) == 6 * (32 * 16 + 32 * 16)  # the tied head, the mixing matrix; no vectors


class Poisoned(TinyModel):
    """Not finite from step 6 on."""

    calls = 0

    def loss(self, batch: dict[str, Tensor]) -> Loss:
        loss = super().loss(batch)
        if self.training:
            self.calls += 1
        return loss._replace(nats=loss.nats * (math.nan if self.training and self.calls >= 6 else 1.0))


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, tiny_config(logging={"every": 50}), model=Poisoned())
    with pytest.raises(UserError, match=r"not finite at step 6 \(windows 40 to 47.*learning rate"):
        run.fit()
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == ["step-00000003"]


def test_a_batch_without_targets_is_an_error(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, tiny_config(), model=TinyModel())
    original = run.data.train_dataloader()

    def nothing():
        for microbatches in original:
            for batch in microbatches:
                batch["targets"].fill_(-100)
            yield microbatches

    run.data.train_dataloader = nothing
    with pytest.raises(UserError, match="no token is scored in the whole batch of step 1"):
        run.fit()
