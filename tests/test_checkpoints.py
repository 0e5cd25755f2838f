"""Checkpoints: whole or not there, passed over when broken, never the reason that work is lost."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.stand_ins import TinyModel, TinyRun, tiny_config
from training import checkpoints
from utils.messages import UserError


def write(folder: Path, step: int, kind: str = "step", value: float = 1.0) -> Path:
    tensors = {"weight": torch.full((3,), value), "shared": torch.ones(2)}
    tensors["alias"] = tensors["shared"]
    return checkpoints.write(folder, checkpoints.name_of(kind, step), {"model": tensors}, {"step": step})


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    read = checkpoints.read_tensors(path, "model")
    assert set(read) == {"weight", "shared", "alias"} and torch.equal(read["alias"], read["shared"])
    assert checkpoints.read_state(path)["step"] == 7
    assert checkpoints.problem_with(path) is None
    assert checkpoints.find(tmp_path, "last") == path


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_broken_one_is_passed_over_with_a_warning(tmp_path: Path, name: str, capfd: pytest.CaptureFixture) -> None:
    older, newer = write(tmp_path, 5), write(tmp_path, 10)
    flip_a_bit(newer / name)
    assert checkpoints.newest(tmp_path) == older
    assert "step-00000010 is broken" in capfd.readouterr().err
    with pytest.raises(UserError, match="is not whole"):
        checkpoints.check_named(newer)


def test_none_whole_is_an_error_and_none_at_all_is_a_beginning(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "nothing") is None
    path = write(tmp_path, 5)
    (path / "manifest.json").unlink()
    with pytest.raises(UserError, match="none of the 1 checkpoints.*--restart"):
        checkpoints.newest(tmp_path)
    with pytest.raises(UserError, match="no 'best' checkpoint"):
        checkpoints.find(tmp_path, "best")


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 5)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(UserError, match="no space left"):
        write(tmp_path, 5, value=2.0)
    assert checkpoints.problem_with(path) is None
    assert os.listdir(tmp_path) == [path.name]


def test_leftovers_of_a_kill_are_put_right(tmp_path: Path) -> None:
    whole = write(tmp_path, 5)
    whole.rename(tmp_path / ".step-00000005.host-1.old")  # killed between the two renames
    (tmp_path / ".step-00000005.host-1.tmp").mkdir()
    (tmp_path / ".step-00000001.trash").mkdir()
    checkpoints.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["step-00000005"] and checkpoints.problem_with(whole) is None


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 9):
        write(tmp_path, step)
    write(tmp_path, 3, kind="best")
    checkpoints.keep_newest(tmp_path / "step-00000010", 2)
    assert sorted(os.listdir(tmp_path)) == ["best-00000003", "step-00000009", "step-00000010"]


def test_what_a_killed_life_left_of_later_steps_gives_way(tmp_path: Path) -> None:
    """On a GPU, or another number of devices, step 20 may not be the best this time."""
    for step in (12, 20):
        write(tmp_path, step, kind="best")
    checkpoints.keep_newest(tmp_path / "best-00000012", 1)
    assert os.listdir(tmp_path) == ["best-00000012"]


def test_any_state_of_an_optimizer_can_be_kept() -> None:
    state = {
        "state": {0: {"step": torch.tensor(3.0), "lists": [1, None, torch.ones(2)]}},
        "groups": [{"betas": (0.9, 0.95)}],
    }
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(checkpoints.pack(state, "optimizer", tensors)))
    back = checkpoints.unpack(packed, tensors)
    assert (
        back["groups"] == state["groups"]
        and back["state"][0]["step"] == 3
        and back["state"][0]["lists"][:2] == [1, None]
    )
    with pytest.raises(UserError, match="holds a object"):
        checkpoints.pack({"x": object()}, "optimizer", {})


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path, "step-00000001", {"model": nn.Linear(3, 2).state_dict()}, {})
    with pytest.raises(UserError, match=r"weight is \(2, 3\), not \(2, 4\)"):
        checkpoints.load_weights(nn.Linear(4, 2), path)
    with pytest.raises(UserError, match="0.weight is missing.*weight is unknown"):
        checkpoints.load_weights(nn.Sequential(nn.Linear(3, 2)), path)


def test_names_are_clean_and_load_into_a_compiled_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    compiled = nn.Sequential(torch.compile(nn.Linear(2, 2)))
    assert "0._orig_mod.weight" in compiled.state_dict()
    path = checkpoints.write(tmp_path, "step-00000001", {"model": checkpoints.model_tensors(model)}, {})
    checkpoints.load_weights(compiled, path)
    assert checkpoints.model_tensors(compiled).keys() == model.state_dict().keys()
    assert torch.equal(compiled[0].weight, model[0].weight)


def test_best_weights_are_those_that_were_measured(tmp_path: Path) -> None:
    """A learning rate so high that the weights move away from the best again."""
    config = tiny_config({"validate_every": 1}, optimizer={"lr": 1.0}, schedule={"name": "constant", "warmup_steps": 9})
    run = TinyRun(tmp_path, config).fit()
    path = checkpoints.find(tmp_path / "checkpoints", "best")
    history = run.training.history
    best = min(history, key=lambda entry: entry["monitor"])
    assert checkpoints.read_state(path)["step"] == best["step"]
    assert history[-1]["monitor"] > best["monitor"], "the test needs a run that gets worse again"
    model = TinyModel(0.2)
    checkpoints.load_weights(model, path)
    with torch.no_grad():
        sums = [model.eval().loss(batch) for batch in run.data.val_dataloader()[0]]
    nats, tokens = sum(float(loss.nats) for loss in sums), sum(int(loss.tokens) for loss in sums)
    assert nats / tokens == pytest.approx(best["monitor"], abs=1e-6)
