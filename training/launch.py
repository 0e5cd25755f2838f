"""Settings -> the Lightning Trainer that runs the step of model.py, and nothing of Lightning's beside it."""

import inspect
import logging
import warnings
from typing import Any

import pytorch_lightning as L

from configs.schema import Config
from training.precision import Hardware, LossScaling
from utils.imports import accepts, check_arguments, did_you_mean, import_object
from utils.messages import UserError

# Arguments of the Trainer that Liftoff sets itself, and where the same is said in a config.
OWNED = {
    "accelerator": "trainer.accelerator",
    "devices": "trainer.devices",
    "num_nodes": "trainer.num_nodes",
    "precision": "trainer.precision",
    "max_steps": "trainer.max_steps",
    "max_epochs": "trainer.max_epochs",
    "min_steps": None,
    "min_epochs": None,
    "max_time": "trainer.max_time",
    "gradient_clip_val": "trainer.clip",
    "gradient_clip_algorithm": "trainer.clip",
    "accumulate_grad_batches": "trainer.micro_batch_size",
    "val_check_interval": "trainer.validate_every",
    "check_val_every_n_epoch": "trainer.validate_every",
    "limit_val_batches": "trainer.validation_windows",
    "limit_train_batches": "trainer.max_steps",
    "limit_test_batches": "inference.max_samples",
    "limit_predict_batches": None,
    "overfit_batches": "--debug",
    "fast_dev_run": "--debug",
    "num_sanity_val_steps": "trainer.validate_at_start",
    "logger": "logging",
    "log_every_n_steps": "logging.every",
    "enable_progress_bar": "logging",
    "enable_model_summary": None,
    "enable_autolog_hparams": None,
    "enable_checkpointing": "checkpoints",
    "callbacks": "trainer.callbacks",
    "default_root_dir": "paths.runs",
    "use_distributed_sampler": None,
    "reload_dataloaders_every_n_epochs": None,
    "inference_mode": None,
    "barebones": None,
}


def make_trainer(config: Config, hardware: Hardware, callbacks: list[L.Callback]) -> L.Trainer:
    """callbacks: Liftoff's own; those of the config come before them.

    Raises:
        UserError: an argument that Liftoff owns, or that the Trainer does not take
    """
    _quieten()
    others = dict(config.trainer.lightning)
    check_lightning(others)
    if hardware.precision == "16-mixed":
        others["plugins"] = [LossScaling(hardware.device_type), *others.get("plugins", [])]
    else:
        others["precision"] = hardware.precision
    if hardware.ranks > 1:
        others.setdefault("strategy", "ddp")
    try:
        return L.Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.num_nodes,
            # The end comes from training/step_end.py, and the loader has none.
            max_steps=-1,
            max_epochs=-1,
            # Lightning never validates by itself.
            val_check_interval=2**62,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            # dataset.py gives each rank its share; Lightning would shuffle it once more.
            use_distributed_sampler=False,
            # Under inference mode a model could keep tensors that no backward pass can use.
            inference_mode=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*user_callbacks(config), *callbacks],
            **others,
        )
    except (TypeError, ValueError, L.utilities.exceptions.MisconfigurationException) as error:
        raise UserError(f"trainer: Lightning refuses: {error}") from error


def check_lightning(arguments: dict[str, Any]) -> None:
    """Of `trainer.lightning`.

    Raises:
        UserError: an argument that is owned, or unknown
    """
    takes = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    for name in arguments:
        if name in OWNED:
            instead = f"set {OWNED[name]} instead" if OWNED[name] else "it cannot be changed"
            raise UserError(f"trainer.lightning.{name} is Liftoff's own; {instead}")
        if name not in takes:
            raise UserError(f"trainer.lightning: the Trainer takes no '{name}'{did_you_mean(name, takes - set(OWNED))}")


def user_callbacks(config: Config) -> list[L.Callback]:
    """`trainer.callbacks`: import paths, or {name: import path, and its arguments}.

    Raises:
        UserError: no such callback, or arguments that it does not take
    """
    made = []
    for index, entry in enumerate(config.trainer.callbacks):
        where = f"trainer.callbacks[{index}]"
        if not (isinstance(entry, str) or (isinstance(entry, dict) and isinstance(entry.get("name"), str))):
            raise UserError(f"{where} should be an import path, or {{name: import path, and its arguments}}")
        arguments = {} if isinstance(entry, str) else {key: value for key, value in entry.items() if key != "name"}
        kind = import_object(entry if isinstance(entry, str) else entry["name"], where)
        if not (isinstance(kind, type) and issubclass(kind, L.Callback)):
            raise UserError(f"{where}: {kind} is no pytorch_lightning.Callback")
        if issubclass(kind, L.callbacks.Checkpoint):
            raise UserError(f"{where}: checkpoints are Liftoff's own; see the section checkpoints")
        if accepts(kind) is not None:
            check_arguments(kind, arguments, where)
        made.append(kind(**arguments))
    return made


def _quieten() -> None:
    """Lightning's banners and its advice about what is done on purpose here."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")  # --debug
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*srun.*command is available.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
