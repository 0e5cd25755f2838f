"""Learning-rate schedules at their corners, and which weights decay."""

import pytest
import torch
from torch import nn

from configs.schema import Optimizer, Schedule
from optim.build import build_optimizer, build_schedule
from optim.groups import parameter_groups
from optim.schedules import constant, cosine, linear
from utils.messages import UserError


@pytest.mark.parametrize("schedule", [constant, linear, cosine])
def test_warm_up_is_a_line_that_ends_at_one(schedule) -> None:
    assert [schedule(u, (), total=100, warmup=4) for u in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(1, (), total=100, warmup=0) == pytest.approx(1.0, abs=0.02)


def test_schedules_end_where_they_should() -> None:
    assert constant(100, (), total=100, warmup=10) == 1.0
    assert linear(55, (), total=100, warmup=10) == pytest.approx(0.5)
    assert linear(100, (), total=100, warmup=10) == 0.0
    assert linear(100, (), total=100, warmup=10, final_fraction=0.2) == pytest.approx(0.2)
    assert cosine(55, (), total=100, warmup=10) == pytest.approx(0.55)
    assert cosine(100, (), total=100, warmup=10) == pytest.approx(0.1)
    assert cosine(1000, (), total=100, warmup=10) == pytest.approx(0.1)  # never up again
    assert cosine(5, (), total=5, warmup=10) == 0.5  # a run shorter than its warm-up


def test_the_warm_up_ratio_is_of_all_steps() -> None:
    fraction = build_schedule(Schedule(name="linear", warmup_ratio=0.1), total=50)
    assert [fraction(u, ()) for u in (1, 5)] == [0.2, 1.0]
    assert build_schedule(Schedule(name="constant", warmup_steps=2, warmup_ratio=None), total=50)(1, ()) == 0.5


def test_an_argument_that_a_schedule_does_not_take_is_refused() -> None:
    with pytest.raises(UserError, match="final_fraction"):
        build_schedule(Schedule.model_validate({"name": "cosine", "final_fracton": 0.1}), total=10)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight


def test_matrices_decay_and_nothing_else() -> None:
    model = Model()
    decaying, others = parameter_groups(model, 0.1)
    assert [id(p) for p in decaying["params"]] == [id(model.layer.weight)]
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0.0
    assert len(others["params"]) == 4  # the tied embedding once, two biases, a norm
    with_embeddings, _ = parameter_groups(model, 0.1, decay_embeddings=True)
    assert {id(p) for p in with_embeddings["params"]} == {id(model.embedding.weight), id(model.layer.weight)}


def test_the_optimizer_is_fused_where_it_can_be() -> None:
    adamw = build_optimizer(Optimizer.model_validate({"name": "torch.optim.AdamW", "betas": [0.9, 0.95]}), Model())
    assert adamw.defaults["fused"] and adamw.defaults["betas"] == (0.9, 0.95)
    assert isinstance(build_optimizer(Optimizer(name="torch.optim.Adafactor"), Model()), torch.optim.Adafactor)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "torch.optim.AdamW", "beta": 0.9}, "betas"),
        ({"name": "torch.optim.AdamX"}, "did you mean"),
        ({"name": "torch.nn.Linear"}, "no torch.optim.Optimizer"),
        ({"name": "torch.optim.Rprop"}, "weight_decay"),
        ({"name": "torch.optim.AdamW", "betas": [0.9, 2.0]}, "refuses"),
        ({"name": "torch.optim.LBFGS", "weight_decay": 0.0}, "several times a step"),
    ],
)
def test_what_an_optimizer_cannot_do_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_optimizer(Optimizer.model_validate(settings), Model())
