"""Token shards + a model -> a trained model: checkpoints, measures, curves, and a directory that transformers opens.

    python train.py configs/user_configs/mine.yaml     begins, or goes on where the same command was stopped
    python train.py CONFIG --debug                     one batch seen from all sides, then overfitted; writes no run
    python train.py CONFIG --restart                   moves what is there aside, and begins anew
    python train.py CONFIG --evaluate                  trains, then runs inference.py

What happens at each step is in model.py; what at a step's end, in training/step_end.py.
"""

import argparse
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from configs.command_line import again, run_stage, to_generate
from configs.pins import revision_of
from configs.places import REPOSITORY, run_dir, scored_splits, validation_names
from configs.schema import Config
from utils.files import shown
from utils.hashing import sha256_json
from utils.messages import UserError, amount, duration, info, is_first_rank, table
from utils.run_directory import RunDirectory, read_metrics

if TYPE_CHECKING:  # heavy ones come once the config is known to be right
    from dataset import LanguageModelData
    from model import LanguageModelTraining
    from tokenizer.tokenizer import Tokenizer
    from training.length import Length
    from training.precision import Hardware
    from training.recorder import Recorder

FLAGS = {
    "restart": "move the run's folder aside and begin anew",
    "debug": "look at one batch and overfit it; nothing is written",
    "evaluate": "run inference.py when training is done",
}
# What starts several ranks leaves these in the environment; a process that should be alone must not see them.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "SLURM_")


def main(config: Config, flags: argparse.Namespace) -> int:
    """-> exit code"""
    if flags.debug:
        debug(config)
        return 0
    run = RunDirectory(run_dir(config))
    if run.check(config, flags.restart):
        code = train(config, run, flags)
        if code:
            return code
    else:
        info(f"{shown(run.path)} is finished; --restart begins anew")
    return evaluate(again(flags)) if flags.evaluate and is_first_rank() else 0


def train(config: Config, run: RunDirectory, flags: argparse.Namespace) -> int:
    """Trains to the end, or until a signal. -> exit code"""
    begin_imports(config)
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from corpus.lineage import check_run, of_training, write_run
    from optim.build import build_schedule
    from training.launch import make_trainer
    from training.length import length_of
    from training.loggers import FromLightning, make_loggers
    from training.recorder import Recorder
    from training.run_state import RunState
    from training.samples import Samples
    from training.signals import Stopped
    from training.step_end import StepEnd

    hardware, tokenizer, training, data = parts_of(config)
    if flags.evaluate:
        check_evaluation(config)
    length = length_of(config.trainer, data.n_windows, data.tokens_per_epoch)
    data.total_steps = length.steps + 1  # one more than is taken: a run that goes on at its very end still starts
    training.schedule = build_schedule(config.schedule, length.steps)
    recorder = Recorder(
        config, run.metrics, length.steps, is_first_rank(), lambda step: make_loggers(config, run.path, step)
    )
    state = RunState(run.checkpoints, config.checkpoints.keep_last, data, data_facts(data, tokenizer))
    samples = Samples(run.path / "samples.jsonl", tokenizer, validation_names(config), config.logging.samples)
    step_end = StepEnd(config, length.steps, recorder, state)
    trainer = make_trainer(config, hardware, [samples, step_end], FromLightning(recorder.write_logged))
    made_of = of_training(config, tokenizer.fingerprint, data.on_the_fly and data.on_the_fly.facts)
    if not flags.restart and run.begun:
        check_run(run.path, made_of)
    run.open(config, restart=flags.restart)  # what can be checked was checked; from here on files are written
    if is_first_rank():
        write_run(run.path, made_of)
    show_plan(config, hardware, training, data, length)
    try:
        trainer.fit(training, data)
    except MisconfigurationException as error:
        raise UserError(f"trainer: Lightning refuses: {error}") from error
    except Stopped as stopped:
        info(f"{stopped}; the same command goes on from there")
        # Lightning kills a run one of whose own children leaves with a code; rank 0 speaks for all of them.
        started_by_lightning = trainer.strategy.launcher is not None and not is_first_rank()
        return 0 if started_by_lightning else 128 + stopped.signum
    if is_first_rank():
        finish(config, run, training, data, tokenizer, recorder, again(flags))
    return 0


def begin_imports(config: Config) -> None:
    """Lightning first, as lean as the user's own code allows."""
    from training.lean_start import import_lightning

    if not config.trainer.callbacks:
        import_lightning([REPOSITORY / "model.py"])


def parts_of(config: Config) -> "tuple[Hardware, Tokenizer, LanguageModelTraining, LanguageModelData]":
    """Everything that is checked before the first byte is written: hardware, tokenizer, model, data."""
    from dataset import LanguageModelData
    from evaluation.opening import special_ids
    from model import LanguageModelTraining
    from models.build import build_model
    from optim.build import check_optimizer
    from tokenizer.tokenizer import Tokenizer
    from training.length import batch_arithmetic
    from training.precision import hardware

    found = hardware(config.trainer)
    batch_arithmetic(config.trainer, found.ranks)
    check_optimizer(config.optimizer)
    tokenizer = Tokenizer.configured(config)
    model = build_model(
        **config.model.model_dump() | {"revision": revision_of(config, "model")},
        vocab_size=tokenizer.vocab_size,
        special_ids=special_ids(tokenizer),
        seed=config.seed,
        window=config.data.max_seq_len,
        document_masking=config.data.document_masking,
    )
    model.train()  # pretrained ones come without dropout, and Lightning leaves that as it finds it
    return found, tokenizer, LanguageModelTraining(model, config), LanguageModelData(config, tokenizer, model.facts)


def data_facts(data: "LanguageModelData", tokenizer: "Tokenizer") -> dict[str, object]:
    """What a run that goes on must find unchanged: its steps are counted in these windows."""
    if data.on_the_fly is not None:
        return {"training data": data.on_the_fly.facts, "tokenizer": tokenizer.fingerprint}
    shards = [shard["sha256"] for index in data.training.indices for shard in index.shards.manifest["shards"]]
    return {"training data": [data.n_windows, sha256_json(shards)], "tokenizer": tokenizer.fingerprint}


def check_evaluation(config: Config) -> None:
    """A mistake in what --evaluate runs is told before the training, not after it."""
    from evaluation.metrics import load_metrics
    from evaluation.scoring import check_split

    check_split(config)
    load_metrics(config.inference.metrics)


def show_plan(
    config: Config, hardware: "Hardware", training: "LanguageModelTraining", data: "LanguageModelData", length: "Length"
) -> None:
    """What is about to be trained, in every unit."""
    from training.length import batch_arithmetic

    model = config.model
    is_counted = config.data.mixture is None and data.on_the_fly is None
    in_epochs = f" = {length.epochs:.3g} epochs" if is_counted else ", every window full" if data.on_the_fly else ""
    trained = sum(weight.numel() for weight in training.model.parameters() if weight.requires_grad)
    rows = [
        ("model", f"{model.backbone or model.huggingface or model.module}, {trained:,} parameters to train"),
        ("length", f"{length.steps:,} steps = {length.tokens:,} tokens" + in_epochs),
        *mixture_rows(data, length.windows),
        ("step", str(batch_arithmetic(config.trainer, hardware.ranks))),
        ("computed", f"in {hardware.precision} on {hardware}"),
        ("optimizer", f"{config.optimizer.name}, lr {config.optimizer.lr:g}, {config.schedule.name} schedule"),
    ]
    table(f"training {config.name}", rows)


def mixture_rows(data: "LanguageModelData", windows: int) -> list[tuple[str, str]]:
    """How often so many windows of a run go through each source of a mixture; nothing where there is none."""
    training = None if data.on_the_fly else data.training
    if training is None or training.mixture is None:
        return []
    lines = [
        f"{name}: {share:.2%} of the windows, {training.epochs(windows)[name]:.3g} epochs of {len(index):,}"
        for name, share, index in zip(training.names, training.mixture.shares, training.indices, strict=True)
    ]
    return [("mixture", "\n".join(lines))]


def finish(
    config: Config,
    run: RunDirectory,
    training: "LanguageModelTraining",
    data: "LanguageModelData",
    tokenizer: "Tokenizer",
    recorder: "Recorder",
    typed: str,
) -> None:
    """Curves, the exported model, and the table that a run ends with."""
    from corpus.lineage import of_export
    from training import checkpoints
    from training.export import export
    from training.history import best
    from training.report import draw_curves

    facts = {}
    draw_curves(read_metrics(run.metrics), run.pictures / "curves.png", config.name)
    record = best(training.history)
    rows = [
        ("steps", f"{training.steps:,}, {amount(recorder.tokens)} tokens in {duration(recorder.clock.seconds)}"),
        ("speed", f"{amount(recorder.tokens / recorder.clock.seconds)} tokens/s, validation and checkpoints included"),
    ]
    if record:
        monitored = config.checkpoints.monitor or f"{validation_names(config)[0]}/loss"
        rows.append(("best", f"{monitored} {record['monitor']:.4f} at step {record['step']}"))
    if config.checkpoints.export != "none":
        which = config.checkpoints.export if checkpoints.listed(run.checkpoints, "best") else "last"
        path = checkpoints.find(run.checkpoints, which)
        checkpoints.load_weights(training.model, path)
        sample = next(iter(data.val_dataloader()[0]))["input_ids"]
        state = checkpoints.read_state(path)
        step = state["step"]
        losses = next((entry for entry in state["history"] if entry["step"] == step), {})
        measures = {"step": step} | {
            f"{name} loss": losses[name] for name in validation_names(config) if name in losses
        }
        exported = export(training.model, tokenizer, config, run.model, sample, measures)
        facts = {"model": of_export(path, run.model)}
        what = f"{exported.what} ({which} weights, step {step})"
        rows.append(("model", "\n".join((shown(exported.directory), what, exported.how_to_load, *exported.notes))))
    if data.on_the_fly and data.on_the_fly.skipped:
        counts = data.on_the_fly.skipped.items()
        rows.append(("read past", ", ".join(f"{count:,} documents: {reason}" for reason, count in counts)))
    rows += mixture_rows(data, training.steps * config.trainer.global_batch_size)
    rows += [("curves", shown(run.pictures / "curves.png")), ("measures", shown(run.metrics))]
    run.mark_finished(**facts)
    splits = scored_splits(config)  # a mixture has no split `test`
    split = "" if config.inference.split in splits else f" inference.split={splits[1]}"
    table(f"{config.name} is trained", rows, [f"python inference.py {typed}{split}", *to_generate(config, typed)])


def debug(config: Config) -> None:
    """One batch on one device."""
    begin_imports(config)
    import training.debug as looking
    from training.launch import make_trainer

    config = config.model_copy(update={"trainer": config.trainer.model_copy(update={"devices": 1, "num_nodes": 1})})
    hardware, tokenizer, training, data = parts_of(config)
    microbatches = next(iter(data.train_dataloader()))
    looking.show_batch(microbatches, tokenizer)
    training.schedule = looking.warmed_constant
    watch = looking.Watch(len(microbatches))
    looking.overfit(make_trainer(config, hardware, [watch]), training, watch, microbatches)


def evaluate(typed: str) -> int:
    """inference.py, alone and in a process of its own, with the same config. -> its exit code"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(RANK_VARIABLES)}
    command = [sys.executable, str(REPOSITORY / "inference.py"), *shlex.split(typed)]
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    run_stage(main, __doc__, FLAGS)
