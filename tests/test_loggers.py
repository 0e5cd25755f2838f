"""TensorBoard and Weights & Biases see what metrics.jsonl holds."""

from pathlib import Path

import pytest
import pytorch_lightning as L

from tests.stand_ins import TinyRun, tiny_config
from training.loggers import TensorBoard, scalars
from training.report import draw_curves


def test_a_line_becomes_named_numbers() -> None:
    line = {
        "kind": "validation",
        "step": 4,
        "tokens": 9,
        "samples": 8,
        "seconds": 1.0,
        "flops": 5,
        "set": "far",
        "loss": 2.0,
    }
    assert dict(scalars(line)) == {"validation/far/loss": 2.0}
    assert dict(scalars(line | {"set": "validation", "loss": None, "accuracy": 0.5})) == {"validation/accuracy": 0.5}


def test_tensorboard_hides_what_is_written_again_after_a_kill(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for goes_on_after, steps in [(0, (1, 2, 3)), (1, (2, 3, 4))]:
        board = TensorBoard(tmp_path, goes_on_after)
        for step in steps:
            board.write({"kind": "train", "step": step, "loss": 10.0 * (goes_on_after + 1) + step})
        board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 11), (2, 22), (3, 23), (4, 24)]


def test_wandb_offline_goes_on_under_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    begun = []
    original = wandb.init

    def init(**arguments):
        begun.append(arguments)
        return original(**arguments)

    monkeypatch.setattr(wandb, "init", init)
    config = tiny_config({"max_steps": 2}, logging={"wandb": {"mode": "offline", "project": "trial", "tags": ["a"]}})
    for _ in range(2):
        TinyRun(tmp_path, config).fit()
    assert begun[0]["id"] == begun[1]["id"] == (tmp_path / "wandb_id.txt").read_text().strip()
    assert begun[0]["project"] == "trial" and begun[0]["config"] == config.model_dump()
    written = [path for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")]
    assert written and b"train/loss" in b"".join(path.read_bytes() for path in written)


def test_curves_are_drawn(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, tiny_config()).fit()
    draw_curves([*run.lines().values()], tmp_path / "pictures" / "curves.png", "tiny")
    assert (tmp_path / "pictures" / "curves.png").stat().st_size > 20_000
    draw_curves([], tmp_path / "empty.png", "nothing yet")


class Logging(L.Callback):
    """Logs in each of the ways that Lightning has."""

    def on_train_batch_end(self, trainer: L.Trainer, training: L.LightningModule, *_: object) -> None:
        training.log("steps/twice", 2.0 * training.steps)
        if training.steps % 2 == 0:
            trainer.logger.log_metrics({"own": 3.0 * training.steps}, step=99)


def test_what_callbacks_log_is_in_the_metrics(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, tiny_config(), callbacks=[Logging()]).fit()
    for step in (2, 6, 12):
        line = run.lines()["logged", step, None]
        assert (line["steps/twice"], line["own"]) == (2.0 * step, 3.0 * step)
        assert line["tokens"] == run.lines()["train", step, None]["tokens"]
