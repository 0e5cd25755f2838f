"""The `model` section's values -> a model ready to train: one of the three ways in, dressed in the same face.

    backbone (tokens -> hidden states)   |   a Hugging Face class   |   any module that returns logits or a loss

This is the one file of `models/` that knows of Liftoff's import paths and messages; what it builds does not.
"""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.interface import ModelFacts, TrainableModel
from models.language_model import LanguageModel
from utils.imports import import_object
from utils.messages import UserError


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokenizer that a model's config should know."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unk: int | None = None
    mask: int | None = None
    cls: int | None = None
    sep: int | None = None


def padded_vocab(tokens: int) -> int:
    """Rows of the embedding for so many tokens: the next multiple of 64, which matrix products are fastest with."""
    return -(-tokens // 64) * 64


def build_model(
    *,
    vocab_size: int,
    backbone: str | None = None,
    huggingface: str | None = None,
    module: str | None = None,
    arguments: dict[str, Any] | None = None,
    pretrained: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tie_embeddings: bool = True,
    attention: str = "sdpa",
    loss: str = "auto",
    compile: bool = False,
    activation_checkpointing: bool = False,
    special_ids: SpecialIds | None = None,
    seed: int = 0,
) -> TrainableModel:
    """The keys of the config's `model` section, and vocab_size: tokens of the tokenizer (not padded); seed: of new weights.

    Raises UserError for what the config asks and the model cannot do.
    """
    arguments, special_ids = dict(arguments or {}), special_ids or SpecialIds()
    with refusals(), new_weights_from(seed):
        model = dress_backbone(backbone, arguments, vocab_size, tie_embeddings)
        if activation_checkpointing:
            recompute_blocks(model.backbone)
        if compile:
            model.compile()
    return model


def dress_backbone(name: str, arguments: dict[str, Any], tokens: int, tie: bool) -> LanguageModel:
    """The backbone class of this import path, with a head for so many tokens."""
    kind = import_object(name)
    rows = padded_vocab(tokens)
    taken = inspect.signature(kind).parameters
    size = {"vocab_size": rows} if "vocab_size" in taken else {}
    return LanguageModel(kind(**size, **arguments), rows, tie, tokens, arguments)


def model_facts(model: TrainableModel) -> ModelFacts:
    """What batches need to know of the model."""
    return model.facts


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Files of models/ raise ValueError, so that they can be lifted out; here it becomes a message to the user."""
    try:
        yield
    except (ValueError, TypeError) as problem:
        raise UserError(f"model: {problem}") from problem


@contextlib.contextmanager
def new_weights_from(seed: int) -> Iterator[None]:
    """Weights drawn inside depend on the seed alone, and nothing outside on how many were drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
