"""A key of the schema -> in words what it expects, and for a key that does not exist the nearest one."""

import types
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from configs.schema import Config, Section
from utils.yaml_text import KeyPath, dotted

# What the same thing is called elsewhere, where spelling alone would not find it.
_ELSEWHERE = {
    "learning_rate": "optimizer.lr",
    "max_lr": "optimizer.lr",
    "batch_size": "trainer.global_batch_size",
    "train_batch_size": "trainer.global_batch_size",
    "per_device_train_batch_size": "trainer.micro_batch_size",
    "accumulate_grad_batches": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.micro_batch_size",
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "gradient_clip_val": "trainer.clip",
    "grad_clip": "trainer.clip",
    "max_grad_norm": "trainer.clip",
    "gradient_clipping": "trainer.clip",
    "val_check_interval": "trainer.validate_every",
    "eval_steps": "trainer.validate_every",
    "save_steps": "checkpoints.every",
    "save_every": "checkpoints.every",
    "gpus": "trainer.devices",
    "num_devices": "trainer.devices",
    "seq_len": "data.max_seq_len",
    "max_length": "data.max_seq_len",
    "block_size": "data.max_seq_len",
    "context_length": "data.max_seq_len",
    "sequence_length": "data.max_seq_len",
    "warmup": "schedule.warmup_steps",
    "num_warmup_steps": "schedule.warmup_steps",
    "lr_scheduler": "schedule.name",
    "scheduler": "schedule.name",
    "gradient_checkpointing": "model.activation_checkpointing",
    "attn_implementation": "model.attention",
    "pretrained_model": "model.pretrained",
    "model_name_or_path": "model.pretrained",
    "use_wandb": "logging.wandb",
    "normalization": "tokenizer.normalisation",
    "pre_tokenization": "tokenizer.pre_tokenisation",
    "run_name": "name",
    "experiment": "name",
    "output_dir": "paths.runs",
}


def sections(section: type[Section] = Config, above: KeyPath = ()) -> Iterator[tuple[KeyPath, type[Section]]]:
    """Every section of the config and its place, the config itself first."""
    yield above, section
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner:
            yield from sections(inner, (*above, name))


def settings() -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Every key that is not a section, in the order of the schema."""
    for above, section in sections():
        for name, field in section.model_fields.items():
            if not section_of(field):
                yield (*above, name), field


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that stands under a key; None for a key that has a value."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def find(key: KeyPath) -> tuple[KeyPath, FieldInfo | None, type[Section]]:
    """-> the part of a key that the schema knows, its field (None at a section), and the section it stands in."""
    section: type[Section] = Config
    for index, name in enumerate(key):
        field = section.model_fields.get(str(name))
        if field is None:
            return key[:index], None, section
        inner = section_of(field)
        if inner is None:
            return key[: index + 1], field, section
        section = inner
    return key, None, section


def expected(annotation: Any, metadata: list[Any] = []) -> str:  # noqa: B006 (never changed)
    """In words: "a whole number above 0 or null"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return expected(inner[0], metadata)
    if origin in (Union, types.UnionType):
        return " or ".join(expected(member, metadata) for member in inner)
    if origin is Literal:
        return " | ".join(str(choice) for choice in inner)
    if origin is list:
        return "a list" if inner[0] is Any else f"a list of {_plural(expected(inner[0]))}"
    if origin is dict:
        return "a mapping" if inner[1] is Any else f"a mapping (name: {expected(inner[1])})"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(annotation, "a value") + (_limits(metadata) if annotation in (int, float) else "")


def _plural(words: str) -> str:
    return words.removeprefix("a ") + "s" if words.startswith("a ") else words


def _limits(metadata: list[Any]) -> str:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = [
        f"{word} {getattr(item, name)}" for item in metadata for name, word in words.items() if hasattr(item, name)
    ]
    return f" {' and '.join(limits)}" if limits else ""


def choices(annotation: Any) -> list[str]:
    """The values of a Literal, wherever in the annotation it stands."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for inner in get_args(annotation) for choice in choices(inner)]


def takes(annotation: Any, kind: type) -> bool:
    """Whether a value of that kind is among what the annotation allows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return takes(inner[0], kind)
    if origin in (Union, types.UnionType):
        return any(takes(member, kind) for member in inner)
    return annotation is kind or annotation is Any


def nearest(key: KeyPath) -> str:
    """ "; did you mean 'optimizer.lr'?": within its own section, or the same name in another, or a synonym."""
    known, _, section = find(key[:-1])
    wrong = str(key[len(known)]) if len(known) < len(key) else str(key[-1])
    rest = key[len(known) + 1 :]
    elsewhere = _ELSEWHERE.get(str(key[-1]))
    if elsewhere and (len(key) == 1 or elsewhere.startswith(f"{dotted(known)}.")):
        return f"; did you mean '{elsewhere}'?"
    near = get_close_matches(wrong.lower(), list(section.model_fields), n=1, cutoff=0.7)
    if near:
        return f"; did you mean '{dotted((*known, near[0], *rest))}'?"
    everywhere = [(*above, name) for above, inner in sections() for name in inner.model_fields]
    leaf = str(key[-1])
    same = [dotted(other) for other in everywhere if other[-1] == leaf]
    if elsewhere:
        same = [elsewhere]
    if not same:
        close = get_close_matches(leaf.lower(), sorted({str(other[-1]) for other in everywhere}), n=1, cutoff=0.8)
        same = [dotted(other) for other in everywhere if close and other[-1] == close[0]]
    if same:
        return f"; did you mean {' or '.join(repr(other) for other in same[:3])}?"
    names = ", ".join(section.model_fields)
    return f"; '{dotted(known)}' has {names}" if known else f"; there are {names}"


def shown(value: Any, written: str = "") -> str:
    """A value as a message shows it: text in quotes, numbers as they were written."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, (int, float)):
        return written or str(value)
    return repr(value)
