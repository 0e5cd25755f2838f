"""A config whose keys are each right -> the problems that they have with each other.

One function for each part of the config, each a list of plain conditions. A problem names every key it is about: it is
reported at the first that the user has stated, and not at all where one of them has a problem of its own.
"""

import math
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from configs import data_contradictions
from configs.data_contradictions import Problem
from configs.places import mixture_sources, scored_splits
from configs.schema import Config, Decoding
from utils.imports import did_you_mean
from utils.yaml_text import KeyPath, dotted

# Arguments of Lightning's Trainer that Liftoff sets itself -> what to use instead.
OWNED_BY_LIFTOFF = {
    "max_steps": "trainer.max_steps",
    "max_epochs": "trainer.max_epochs",
    "min_steps": "trainer.max_steps; a run has exactly one length",
    "min_epochs": "trainer.max_epochs; a run has exactly one length",
    "max_time": "trainer.max_time",
    "precision": "trainer.precision",
    "accelerator": "trainer.accelerator",
    "devices": "trainer.devices",
    "num_nodes": "trainer.num_nodes",
    "strategy": "trainer.devices and trainer.num_nodes; more than one process is DDP",
    "logger": "logging.tensorboard and logging.wandb",
    "callbacks": "trainer.callbacks",
    "gradient_clip_val": "trainer.clip",
    "gradient_clip_algorithm": "trainer.clip, which is by norm",
    "accumulate_grad_batches": "trainer.micro_batch_size; accumulation follows from it",
    "val_check_interval": "trainer.validate_every",
    "check_val_every_n_epoch": "trainer.validate_every",
    "num_sanity_val_steps": "trainer.validate_at_start",
    "limit_train_batches": "trainer.max_steps",
    "limit_val_batches": "trainer.validation_windows",
    "limit_test_batches": "inference.max_samples",
    "limit_predict_batches": "inference.max_samples",
    "overfit_batches": "train.py --debug, which overfits one batch",
    "fast_dev_run": "train.py --debug",
    "enable_checkpointing": "the section checkpoints",
    "enable_progress_bar": "logging.plain_every_seconds; Liftoff shows its own",
    "log_every_n_steps": "logging.every",
    "default_root_dir": "paths.runs",
    "use_distributed_sampler": "nothing; the order of the data is Liftoff's own",
    "reload_dataloaders_every_n_epochs": "nothing; batches follow from the step alone",
    "barebones": "nothing; Liftoff's own loop is lean",
    "enable_model_summary": "nothing; a run begins with its own table, and --debug shows the layers",
    "enable_autolog_hparams": "nothing; loggers are given the whole config",
    "inference_mode": "nothing; a model could keep tensors of a validation that no backward pass can use",
}
OPEN_TO_THE_USER = (
    "benchmark", "deterministic", "detect_anomaly", "model_registry", "plugins", "profiler", "sync_batchnorm",
)  # fmt: skip
# Callbacks that do what Liftoff does itself -> what to use instead.
OWNED_CALLBACKS = {
    "ModelCheckpoint": "the section checkpoints",
    "OnExceptionCheckpoint": "the section checkpoints",
    "EarlyStopping": "trainer.early_stopping",
    "RichProgressBar": "nothing; Liftoff shows its own progress",
    "TQDMProgressBar": "nothing; Liftoff shows its own progress",
    "ProgressBar": "nothing; Liftoff shows its own progress",
    "LearningRateMonitor": "nothing; metrics.jsonl holds the learning rate of every step that is logged",
    "GradientAccumulationScheduler": "trainer.micro_batch_size; accumulation follows from it",
    "Timer": "trainer.max_time",
}


def find(config: Config) -> list[Problem]:
    """All of them."""
    parts = (_run, data_contradictions.find, _tokenizer, _model, _objective, _trainer, _lightning, _decoding)
    return [problem for part in parts for problem in part(config)]


def _run(config: Config) -> Iterator[Problem]:
    name = config.name
    if (
        name is not None
        and not re.fullmatch(r"[\w.+-][\w.+=, -]*(/[\w.+-][\w.+=, -]*)*", name)
        or ".." in (name or "").split("/")
    ):
        yield (("name",),), f"name is that of a folder in paths.runs (letters, digits and . _ - + =), got '{name}'"
    for key in ("data", "runs"):
        if not getattr(config.paths, key).strip():
            yield (("paths", key),), f"paths.{key} should be a folder, got ''"


def _tokenizer(config: Config) -> Iterator[Problem]:
    tokenizer, special = config.tokenizer, config.tokenizer.special_tokens
    if tokenizer.path is not None:
        if tokenizer.retrain is not None:
            yield (
                (("tokenizer", "retrain"), ("tokenizer", "path")),
                ("tokenizer.retrain trains a tokenizer, and tokenizer.path uses one that there is; set only one"),
            )
        return
    if tokenizer.retrain is None:
        at = ("tokenizer", "special_tokens")
        if config.objective.name == "masked" and special.mask is None:
            yield (
                (("objective", "name"), (*at, "mask")),
                "objective masked needs tokenizer.special_tokens.mask, such as '<mask>'",
            )
        if config.tokenize.document_end == "eos" and special.eos is None:
            yield (
                ((*at, "eos"), ("tokenize", "document_end")),
                ("tokenize.document_end: eos needs tokenizer.special_tokens.eos; or set document_end: none"),
            )
        for setting, names in (("window_bos", ("bos", "cls")), ("window_eos", ("eos", "sep"))):
            if getattr(config.data, setting) and not any(getattr(special, name) for name in names):
                keys = (("data", setting), (*at, names[0]))
                yield keys, f"data.{setting} needs tokenizer.special_tokens.{names[0]}"
        strings = [
            text
            for text in (special.bos, special.eos, special.pad, special.unk, special.mask, special.cls, special.sep)
        ]
        if "" in strings or "" in special.extra:
            yield (at,), "tokenizer.special_tokens: a special token is some text or null, got ''"
        least = 256 + len({text for text in strings if text} | set(special.extra))
        if tokenizer.kind == "byte_level_bpe" and tokenizer.vocab_size < least:
            yield (
                (("tokenizer", "vocab_size"), ("tokenizer", "kind")),
                (
                    f"tokenizer.vocab_size={tokenizer.vocab_size} is too small for byte_level_bpe: "
                    f"256 bytes and {least - 256} special tokens make {least}"
                ),
            )


def _model(config: Config) -> Iterator[Problem]:
    model = config.model
    ways = (("model", "backbone"), ("model", "huggingface"), ("model", "module"))
    way = next((key for key in ways if getattr(model, key[1])), None)
    if way is None:
        yield ways, "model needs exactly one of backbone, huggingface and module"
        return
    if way[1] != "huggingface" and model.attention is not None:
        yield (("model", "attention"), way), f"model.attention is for model.huggingface; model.{way[1]} chooses its own"
    if way[1] != "backbone" and not model.tie_embeddings and way[1] != "huggingface":
        yield (
            (("model", "tie_embeddings"), way),
            f"model.tie_embeddings is for model.backbone; model.{way[1]} chooses its own",
        )
    if way[1] == "backbone" and model.loss == "own":
        yield (("model", "loss"), way), "model.loss: own needs a model with a loss of its own: huggingface or module"
    if model.pretrained is None:
        for key in ("revision", "trust_remote_code"):
            if getattr(model, key):
                yield (("model", key),), f"model.{key} is of model.pretrained, which is not set"
    stated_positions = [
        name for name in ("max_seq_len", "max_position_embeddings", "n_positions") if name in model.arguments
    ]
    for name in stated_positions[:1]:
        positions = model.arguments[name]
        if isinstance(positions, int) and not isinstance(positions, bool) and positions < config.data.max_seq_len:
            yield (
                (("data", "max_seq_len"), ("model", "arguments", name)),
                (
                    f"data.max_seq_len={config.data.max_seq_len} is longer than the model's positions: "
                    f"model.arguments.{name}={positions}"
                ),
            )


def _objective(config: Config) -> Iterator[Problem]:
    name, kind, model = config.objective.name, config.dataset.kind, config.model
    keys = (("objective", "name"), ("dataset", "kind"))
    if name == "seq2seq" and kind not in ("pairs", "prompt_response"):
        yield keys, f"objective seq2seq needs dataset.kind: pairs | prompt_response, got {kind}"
    if name in ("causal", "masked") and kind == "pairs":
        yield (keys[1], keys[0]), f"dataset.kind: pairs needs objective seq2seq, got {name}"
    if name == "masked" and kind in ("prompt_response", "messages"):
        yield keys, f"objective masked needs dataset.kind: text, got {kind}"
    fitting = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "seq2seq": "AutoModelForSeq2SeqLM"}
    way = ("model", "huggingface")
    if model.huggingface in fitting.values() and fitting.get(name, model.huggingface) != model.huggingface:
        yield (way, keys[0]), f"objective {name} needs model.huggingface: {fitting[name]}, got {model.huggingface}"
    if model.backbone == "models.transformer.Transformer" and name in ("masked", "seq2seq"):
        what = "is causal" if name == "masked" else "takes no decoder_input_ids"
        yield (
            (keys[0], ("model", "backbone")),
            (
                f"objective {name} does not go with models.transformer.Transformer, which {what}; "
                f"set model.huggingface: {fitting[name]}"
            ),
        )


def _trainer(config: Config) -> Iterator[Problem]:
    trainer = config.trainer
    lengths = tuple(("trainer", name) for name in ("max_steps", "max_epochs", "max_tokens"))
    if all(getattr(trainer, key[1]) is None for key in lengths):
        yield lengths, "trainer needs exactly one of max_steps, max_epochs and max_tokens"
    devices = trainer.devices
    if isinstance(devices, int) and devices < 1:
        yield (("trainer", "devices"),), f"trainer.devices should be at least 1, or auto, got {devices}"
    elif isinstance(devices, int):
        micro, size = trainer.micro_batch_size, trainer.global_batch_size
        parts = {"micro_batch_size": micro, "devices": devices, "num_nodes": trainer.num_nodes}
        used = {name: value for name, value in parts.items() if value is not None}
        if size % math.prod(used.values()):
            keys = tuple(("trainer", name) for name in ("global_batch_size", *used))
            product = " x ".join(str(value) for value in used.values())
            yield keys, f"trainer.global_batch_size={size} must be divisible by {' x '.join(used)} = {product}"
    if trainer.precision == "16-mixed" and trainer.accelerator == "cpu":
        keys = (("trainer", "precision"), ("trainer", "accelerator"))
        yield keys, "trainer.precision: 16-mixed needs a GPU; on a CPU take bf16-mixed or 32-true"
    if trainer.max_time is not None and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", trainer.max_time):
        yield (
            (("trainer", "max_time"),),
            f"trainer.max_time should be DD:HH:MM:SS, such as 00:12:00:00, got '{trainer.max_time}'",
        )
    warmup = config.schedule.warmup_steps
    if warmup is not None and trainer.max_steps is not None and warmup > trainer.max_steps:
        keys = (("schedule", "warmup_steps"), ("trainer", "max_steps"))
        yield keys, f"schedule.warmup_steps={warmup} is longer than the run: trainer.max_steps={trainer.max_steps}"
    if trainer.early_stopping.patience is not None and trainer.validate_every is None:
        patience: KeyPath = ("trainer", "early_stopping", "patience")
        yield (patience, ("trainer", "validate_every")), "trainer.early_stopping needs trainer.validate_every"


def _lightning(config: Config) -> Iterator[Problem]:
    for name in config.trainer.lightning:
        key = ("trainer", "lightning", name)
        if name in OWNED_BY_LIFTOFF:
            yield (key,), f"{dotted(key)} is set by Liftoff; use {OWNED_BY_LIFTOFF[name]}"
        elif name not in OPEN_TO_THE_USER:
            near = did_you_mean(name, OPEN_TO_THE_USER) or f"; it takes {', '.join(OPEN_TO_THE_USER)}"
            yield (key,), f"trainer.lightning: Lightning's Trainer takes no '{name}'{near}"
    for section, entries in (
        ("trainer.callbacks", config.trainer.callbacks),
        ("inference.metrics", config.inference.metrics),
    ):
        for index, entry in enumerate(entries):
            place: KeyPath = (*section.split("."), index)
            code = entry.get("name") if isinstance(entry, dict) else entry
            if not isinstance(code, str):
                yield (place,), f"{section} are import paths, or {{name: import path, and its arguments}}"
            elif section == "trainer.callbacks" and code.rpartition(".")[2] in OWNED_CALLBACKS:
                owned = code.rpartition(".")[2]
                yield (place,), f"trainer.callbacks: what {owned} does is Liftoff's; use {OWNED_CALLBACKS[owned]}"


def _decoding(config: Config) -> Iterator[Problem]:
    for section, decoding in (("inference", config.inference.decoding), ("generation", config.generation.decoding)):
        yield from _sampling((section, "decoding"), decoding)
    generation = config.generation
    greedy = generation.decoding.temperature == 0 and generation.decoding.num_beams == 1
    if generation.samples_per_prompt > 1 and greedy:
        yield (
            (("generation", "samples_per_prompt"), ("generation", "decoding", "temperature")),
            (
                f"generation.samples_per_prompt={generation.samples_per_prompt} needs a temperature above 0 or beams: "
                "greedy texts are all the same"
            ),
        )
    split, sources = config.inference.split, mixture_sources(config)
    # Of a mixture the default, test, is not refused here: only who runs inference.py has to choose.
    known = list(dict.fromkeys([*scored_splits(config), *(["test"] if sources else ["validation"])]))
    if split not in known:
        known = known[:-1] if sources else known
        near = get_close_matches(split, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"
        yield (("inference", "split"),), f"inference.split: there is no split '{split}'{hint}"


def _sampling(at: KeyPath, decoding: Decoding) -> Iterator[Problem]:
    temperature: Any = (*at, "temperature")
    if decoding.num_beams > 1 and decoding.temperature > 0:
        yield ((*at, "num_beams"), temperature), f"{dotted(at)}: beams need temperature 0"
    if decoding.temperature == 0:
        for name in ("top_k", "top_p"):
            if getattr(decoding, name) is not None:
                yield (
                    ((*at, name), temperature),
                    f"{dotted((*at, name))} has no effect at temperature 0, which is greedy",
                )
