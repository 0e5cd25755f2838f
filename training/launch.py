"""Settings -> the Lightning Trainer that runs the step of model.py, and nothing of Lightning's beside it."""

import logging
import warnings

import pytorch_lightning as L
from pytorch_lightning.loggers.logger import DummyLogger, Logger

from configs.schema import Config
from training.precision import Hardware, LossScaling
from utils.imports import accepts, check_arguments, import_object
from utils.messages import UserError


def make_trainer(
    config: Config, hardware: Hardware, callbacks: list[L.Callback], logger: Logger | None = None
) -> L.Trainer:
    """callbacks: Liftoff's own; those of the config come before them. logger: of what they and `self.log` say.

    Raises:
        UserError: what Lightning refuses, or a callback that cannot be had
    """
    _quieten()
    others = dict(config.trainer.lightning)  # none that is set here: configs/contradictions.py has seen to that
    if hardware.precision == "16-mixed":
        others["plugins"] = [LossScaling(hardware.device_type), *others.get("plugins", [])]
    else:
        others["precision"] = hardware.precision
    if hardware.ranks > 1:
        others["strategy"] = "ddp"
    try:
        return L.Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.num_nodes,
            # The end comes from training/step_end.py.
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
            logger=DummyLogger() if logger is None else logger,
            log_every_n_steps=config.logging.every,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*user_callbacks(config), *callbacks],
            **others,
        )
    except (TypeError, ValueError, L.utilities.exceptions.MisconfigurationException) as error:
        raise UserError(f"trainer: Lightning refuses: {error}") from error


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
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # a profiler's report was asked for
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")  # --debug
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*srun.*command is available.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
