"""--debug: what is scored is seen, and a model that cannot learn is found out."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.interface import Loss
from tests.stand_ins import TinyModel, TinyRun, TinyTokenizer, tiny_config, windows
from training import debug
from training.launch import make_trainer
from training.precision import hardware
from utils.messages import UserError


def overfitted(tmp_path: Path, model: TinyModel) -> None:
    config = tiny_config({"clip": 0.1}, optimizer={"lr": 0.02})
    microbatches = [windows(range(4)), windows(range(4, 8))]
    training = TinyRun(tmp_path, config, model=model).training
    training.schedule = debug.warmed_constant
    watch = debug.Watch(len(microbatches))
    debug.overfit(make_trainer(config, hardware(config.trainer), [watch]), training, watch, microbatches)


def test_a_model_that_learns_passes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    overfitted(tmp_path, TinyModel())
    said = capsys.readouterr().out
    assert "ln(vocabulary) = 3.4657" in said and "it falls to" in said
    model = TinyModel()
    losses = [model.loss(windows(part)) for part in (range(4), range(4, 8))]
    (sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)).backward()
    norm = torch.cat([model.mixing.weight.grad.flatten(), model.mixing.bias.grad]).norm().item()
    printed = re.search(r"mixing\.weight\s+(\S+)\n.*mixing\.bias\s+(\S+)", said)
    assert printed and float(printed[1]) ** 2 + float(printed[2]) ** 2 == pytest.approx(norm**2, rel=1e-2)
    assert not list(tmp_path.iterdir()), "--debug writes no run"


class Detached(TinyModel):
    """Its layers get no gradient; only the head's bias would, and it has none."""

    def loss(self, batch: dict[str, Tensor]) -> Loss:
        loss = super().loss(batch)
        return loss._replace(nats=loss.nats.detach() + 0 * self.norm.bias.sum())


def test_a_model_that_cannot_learn_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="--debug: the loss of one batch went from"):
        overfitted(tmp_path, Detached())
    assert re.search(r"embedding\.weight\s+no gradient", capsys.readouterr().out)


def test_what_is_not_scored_is_marked(capsys: pytest.CaptureFixture) -> None:
    targets = torch.tensor([-100, -100, 5, 6, -100, 7, -100, -100, -100])
    assert debug.marked(targets, TinyTokenizer()) == "‹2 not scored›5 6‹1 not scored›7‹3 not scored›"
    batch = {"input_ids": torch.tensor([[3, 4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    debug.show_batch([batch | {"targets": torch.tensor([[-100, 5, 9, -100]])}], TinyTokenizer())
    said = capsys.readouterr().out
    assert "input_ids       (1, 4) int64" in said and "scored targets: 2 of 4" in said
    assert "input:\n3 4 5\n" in said and "‹1 not scored›5 9‹1 not scored›" in said


def test_layers_are_named_by_their_number() -> None:
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(2)])})
    assert [name for name, _ in debug.gradient_norms(model)] == ["blocks.0", "blocks.1"]
