"""What happens at a step's end, in its order; how long a run is; and what of Lightning may be set."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGUSR1

import pytest
import pytorch_lightning as L
import torch

from configs.schema import Trainer
from models.interface import Loss
from tests.stand_ins import TinyData, TinyModel, TinyRun, TinyTokenizer, tiny_config
from training import checkpoints, history
from training.launch import user_callbacks
from training.length import batch_arithmetic, length_of, seconds_of
from training.precision import Hardware, fast_at_bf16, hardware
from training.samples import Samples
from training.signals import Stopped
from utils.messages import UserError


def trainer_settings(**settings: object) -> Trainer:
    lengths = {"max_steps": None, "max_epochs": None, "max_tokens": None}
    return Trainer.model_validate(lengths | settings)


def test_a_length_is_converted_into_every_unit() -> None:
    epochs = length_of(trainer_settings(max_epochs=2.0, global_batch_size=8), n_windows=30, tokens_per_epoch=900)
    assert (epochs.steps, epochs.windows, epochs.tokens) == (8, 64, 1920)
    assert length_of(trainer_settings(max_tokens=960, global_batch_size=8), 30, 900).steps == 4
    assert length_of(trainer_settings(max_steps=15, global_batch_size=8), 30, 900).epochs == 4.0
    assert length_of(trainer_settings(max_epochs=1.1, global_batch_size=1), 50, 90).steps == 55  # 1.1 * 50 > 55
    assert seconds_of("01:02:03:04") == 86400 + 7200 + 180 + 4
    with pytest.raises(UserError, match="DD:HH:MM:SS"):
        seconds_of("8h")


def test_a_batch_that_does_not_divide_is_refused() -> None:
    assert str(batch_arithmetic(trainer_settings(global_batch_size=32, micro_batch_size=4), 2)).startswith(
        "32 windows = 4"
    )
    with pytest.raises(UserError, match="divisible by the devices, 3"):
        batch_arithmetic(trainer_settings(global_batch_size=32), 3)
    with pytest.raises(UserError, match="micro_batch_size x devices = 5 x 2"):
        batch_arithmetic(trainer_settings(global_batch_size=32, micro_batch_size=5), 2)


def test_precision_is_what_the_hardware_is_fast_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = {"accelerator": "cpu"}
    wanted = "bf16-mixed" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "32-true"
    assert hardware(trainer_settings(**cpu)).precision == wanted
    monkeypatch.setattr(Path, "read_text", lambda *_: "flags: avx2 amx_bf16_not")
    assert not fast_at_bf16("cpu")
    with pytest.raises(UserError, match="16-mixed needs a GPU"):
        hardware(trainer_settings(precision="16-mixed", **cpu))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees none"):
        hardware(trainer_settings(accelerator="gpu"))


def test_the_order_at_a_steps_end(tmp_path: Path) -> None:
    """Step 12 is the end, a validation (every 4) and a checkpoint (every 3) at once."""
    run = TinyRun(tmp_path, tiny_config())
    events: list[tuple[int, str]] = []

    def noting(name: str, original: Callable) -> Callable:
        def wrapped(*arguments: object) -> object:
            events.append((run.training.steps, name))
            return original(*arguments)

        return wrapped

    state = run.step_end.state
    for owner, name in [(run.recorder, "write_validation"), (state, "write_best"), (state, "write")]:
        setattr(owner, name, noting(name, getattr(owner, name)))
    run.fit()
    validated = [step for step, name in events if name == "write_validation"]
    assert validated == [0, 4, 8, 12]
    assert [step for step, name in events if name == "write"] == [3, 6, 9, 12]
    at_the_end = [name for step, name in events if step == 12]
    assert at_the_end in (["write_validation", "write_best", "write"], ["write_validation", "write"])
    assert not any(step == 0 for step, name in events if name == "write_best"), "step 0 is never best"
    assert [entry["step"] for entry in run.training.history] == [4, 8, 12], "step 0 is not history"
    assert run.step_end.finished and not run.trainer.should_stop


def test_every_set_is_validated_and_written_down(tmp_path: Path) -> None:
    sets = {"validation_path": {"near": "a", "far": "b"}, "train_path": "c", "source": "files"}
    config = tiny_config(dataset=sets, checkpoints={"monitor": "far/loss"})
    run = TinyRun(tmp_path, config, data=TinyData(config, sets=2)).fit()
    lines = run.lines()
    assert {(step, name) for kind, step, name in lines if kind == "validation"} == {
        (step, name) for step in (0, 4, 8, 12) for name in ("near", "far")
    }
    line = lines["validation", 12, "far"]
    assert line["perplexity"] == pytest.approx(math.exp(line["loss"])) and line["targets"] == 82
    assert run.training.history[-1] == {"step": 12, "monitor": line["loss"], "near": line["loss"], "far": line["loss"]}


def test_lines_hold_what_the_contract_says(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, tiny_config({"micro_batch_size": 2})).fit()
    line = run.lines()["train", 12, None]
    assert line["samples"] == 96 and line["tokens"] == 96 * 12
    assert line["flops"] == line["tokens"] * run.recorder.flops_per_token
    assert line["learning_rate"] == pytest.approx(0.001)
    assert {"loss", "accuracy", "grad_norm"} <= line.keys()
    assert [step for kind, step, _ in run.lines() if kind == "train"] == [2, 4, 6, 8, 10, 12]


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "st')
    run = TinyRun(tmp_path, tiny_config()).fit()
    assert ("train", 2, None) in run.lines() and len(run.lines()) == 10


def test_an_unknown_metric_to_monitor_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metric 'loss'; there are.*validation/loss"):
        run = TinyRun(tmp_path, tiny_config(checkpoints={"monitor": "loss"}))
        run.fit()
    assert run.training.steps == 0, "it could be told before training"


def test_early_stopping_is_a_function_of_the_history(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 1.99, 2.5, 1.9]
    entries = [{"step": i, "monitor": loss} for i, loss in enumerate(losses)]
    assert history.is_best(entries) and not history.is_best(entries[:4])
    assert [history.patience_is_over(entries[:n], 2, 0.05) for n in range(1, 6)] == [False, False, False, True, False]
    assert not history.patience_is_over(entries, None, 0.0)
    broken = [{"step": 0, "monitor": math.nan}, *entries]
    assert not history.is_best(broken[:1]) and history.is_best(broken[:2]) and history.best(broken)["monitor"] == 1.9
    assert history.best(broken[:1]) is None
    config = tiny_config(
        {"max_steps": 40, "validate_every": 2, "early_stopping": {"patience": 2}}, optimizer={"lr": 3.0}
    )
    run = TinyRun(tmp_path, config).fit()
    assert run.training.steps < 40 and history.patience_is_over(run.training.history, 2, 0.0)
    assert checkpoints.find(tmp_path / "checkpoints", "last").name == checkpoints.name_of("step", run.training.steps)


def test_max_time_ends_a_run_properly(tmp_path: Path) -> None:
    slow = L.Callback()
    slow.on_train_batch_start = lambda *_: time.sleep(0.3)
    run = TinyRun(tmp_path, tiny_config({"max_time": "00:00:00:01", "max_steps": 500}), callbacks=[slow]).fit()
    steps = run.training.steps
    assert 2 <= steps <= 5 and run.training.history[-1]["step"] == steps and run.step_end.finished


def test_a_run_whose_time_was_up_when_it_was_stopped_is_validated_at_its_end(tmp_path: Path) -> None:
    stop = L.Callback()
    stop.on_train_batch_start = lambda trainer, training, *_: training.steps == 5 and os.kill(os.getpid(), SIGUSR1)
    with pytest.raises(Stopped):
        TinyRun(tmp_path, tiny_config(), callbacks=[stop]).fit()
    again = TinyRun(tmp_path, tiny_config({"max_time": "00:00:00:00"})).fit()
    assert again.step_end.finished and [entry["step"] for entry in again.training.history] == [4, 6]


class StopAt(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, training: L.LightningModule, *_: object) -> None:
        trainer.should_stop = training.steps == self.step


def test_a_callback_may_end_a_run_and_watch_a_metric(tmp_path: Path) -> None:
    validations = []
    count = L.Callback()
    count.on_validation_start = lambda _, training: validations.append(training.steps)
    run = TinyRun(tmp_path, tiny_config(), callbacks=[count, StopAt(5)]).fit()
    assert validations == [0, 4, 5], "Lightning would validate once more before it stops"
    assert run.training.steps == 5 and [entry["step"] for entry in run.training.history] == [4, 5]
    impatient = {"name": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "validation/loss", "patience": 1}
    config = tiny_config({"max_steps": 40, "validate_every": 2, "callbacks": [impatient]}, optimizer={"lr": 3.0})
    run = TinyRun(tmp_path / "early", config).fit()
    steps = [entry["step"] for entry in run.training.history]
    assert run.training.steps < 40 and len(set(steps)) == len(steps), "validated once at the end"


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        ("pytorch_lightning.callbacks.EarlyStoping", "did you mean 'EarlyStopping'"),
        ({"name": "pytorch_lightning.callbacks.Timer", "duraton": 3}, "did you mean 'duration'"),
        ("pytorch_lightning.callbacks.ModelCheckpoint", "Liftoff's own"),
        ("torch.nn.Linear", "no pytorch_lightning.Callback"),
        ({"nme": "x"}, "should be an import path"),
    ],
)
def test_callbacks_are_checked(callback: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        user_callbacks(tiny_config({"callbacks": [callback]}))


def test_arguments_of_lightning_are_passed(tmp_path: Path) -> None:
    """Those that are Liftoff's own are refused with the config: tests/test_config.py."""
    run = TinyRun(tmp_path, tiny_config({"lightning": {"profiler": "simple", "detect_anomaly": True}}))
    assert isinstance(run.trainer.profiler, L.profilers.SimpleProfiler) and run.trainer._detect_anomaly


def test_samples_of_every_validation_are_written(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "samples.jsonl", TinyTokenizer(), ["validation"], count=2)
    TinyRun(tmp_path, tiny_config(), callbacks=[samples]).fit()
    written = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in written] == [0, 0, 4, 4, 8, 8, 12, 12]
    assert len(written[0]["target"].split()) == len(written[0]["prediction"].split()) < len(written[0]["input"].split())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_the_other_precisions_train_and_resume(tmp_path: Path, precision: str) -> None:
    config = tiny_config({"precision": precision, "micro_batch_size": 2})
    whole = TinyRun(tmp_path / "whole", config, model=TinyModel()).fit()
    short = TinyRun(tmp_path / "short", config, model=TinyModel(), callbacks=[StopAt(6)]).fit()
    again = TinyRun(tmp_path / "short", config, model=TinyModel()).fit()
    assert short.training.steps == 6 and whole.lines()["train", 12, None] == again.lines()["train", 12, None]
    first, last = whole.lines()["train", 2, None]["loss"], whole.lines()["train", 12, None]["loss"]
    assert last < first


class Overflowing(TinyModel):
    """The loss of every fourth batch is too large for float16 gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: dict) -> Loss:
        loss = super().loss(batch)
        if self.training:
            self.batches += 1
        factor = 1e30 if self.training and self.batches % 4 == 0 else 1.0
        return loss._replace(nats=loss.nats * factor)


@pytest.mark.parametrize("fused", [True, False])
def test_float16_clips_what_it_has_unscaled_and_skips_what_overflows(tmp_path: Path, fused: bool) -> None:
    """On a CPU, by the same plugin that a GPU gets; there `precision: 16-mixed` itself is refused."""
    config = tiny_config({"validate_at_start": False}, optimizer={"fused": fused}, logging={"every": 1})
    half = Hardware("cpu", 1, 1, "16-mixed")
    run = TinyRun(tmp_path / "half", config, model=Overflowing(), on=half).fit()
    lines = run.lines()
    assert lines["train", 12, None]["overflows"] == 3 and run.training.steps == 12
    assert lines["train", 12, None]["loss_scale"] == 65536.0 / 8 and lines["train", 4, None]["grad_norm"] is None
    TinyRun(tmp_path / "short", config, model=Overflowing(), on=half, callbacks=[StopAt(6)]).fit()
    again = TinyRun(tmp_path / "short", config, model=Overflowing(), on=half).fit()
    assert again.lines()["train", 12, None] == lines["train", 12, None], "the scale goes on where it was"
    full = TinyRun(tmp_path / "full", config, model=TinyModel()).fit().lines()
    assert lines["train", 1, None]["grad_norm"] == pytest.approx(full["train", 1, None]["grad_norm"], rel=0.02)
    assert lines["train", 3, None]["loss"] == pytest.approx(full["train", 3, None]["loss"], rel=0.02)


def test_a_checkpoint_by_the_clock(tmp_path: Path) -> None:
    TinyRun(tmp_path, tiny_config(checkpoints={"every": None, "every_minutes": 1e-9}), keep_last=20).fit()
    assert len(checkpoints.listed(tmp_path / "checkpoints", "step")) == 12
