"""The `model` section's values -> a model ready to train: one of the three ways in, dressed in the same face.

    backbone (tokens -> hidden states)   |   a Hugging Face class   |   any module that returns logits or a loss

This is the one file of `models/` that knows of Liftoff's import paths and messages; what it builds does not.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.documents import check_documents
from models.interface import SpecialIds, TrainableModel, check_window, padded_vocab
from models.language_model import LanguageModel
from models.plain import PlainModule
from models.pretrained import load_backbone, load_module
from utils.imports import accepts, check_arguments, import_object
from utils.messages import UserError, warn


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
    attention: str | None = None,
    loss: str = "auto",
    compile: bool = False,
    activation_checkpointing: bool = False,
    special_ids: SpecialIds | None = None,
    seed: int = 0,
    window: int | None = None,
    document_masking: bool = False,
) -> TrainableModel:
    """The keys of the config's `model` section.

    vocab_size: tokens of the tokenizer (not padded); seed: of new weights; window: tokens of the longest row that
    it will be given, checked before weights are read; document_masking: rows will hold documents that must not see
    each other. Raises UserError for what the config asks and the model cannot do.
    """
    arguments, special_ids = dict(arguments or {}), special_ids or SpecialIds()
    with refusals(), new_weights_from(seed):
        if huggingface is not None:
            model = dress_huggingface(
                huggingface,
                arguments,
                tokens=vocab_size,
                special_ids=special_ids,
                attention=attention,
                own_loss=loss == "own",
                pretrained=pretrained,
                revision=revision,
                trust_remote_code=trust_remote_code,
                window=window,
            )
        elif module is not None:
            model = dress_module(
                module, arguments, vocab_size, own_loss=loss == "own", pretrained=pretrained, window=window
            )
        else:
            assert backbone is not None
            if loss == "own":
                raise ValueError("loss: own is for huggingface and module; a backbone has no loss of its own")
            model = dress_backbone(backbone, arguments, vocab_size, tie_embeddings, pretrained, window)
        if document_masking:
            check_documents(model, window)
        if activation_checkpointing:
            recompute_activations(model)
        if compile:
            model.compile()  # in place: the names of weights stay as they are
    return model


def dress_backbone(
    name: str, arguments: dict[str, Any], tokens: int, tie: bool, pretrained: str | None, window: int | None = None
) -> LanguageModel:
    """The backbone class of this import path, with a head for so many tokens."""
    kind = import_object(name, "model.backbone")
    rows = padded_vocab(tokens)
    size = sized(kind, rows)
    check_arguments(kind, arguments, "model.arguments", given=size)
    model = LanguageModel(kind(**size, **arguments), rows, tie, tokens, arguments)
    check_window(window, model.facts.max_positions)
    if pretrained is not None:
        for note in load_backbone(model, pretrained):
            warn(f"model.pretrained: {note}")
    return model


def dress_module(
    name: str,
    arguments: dict[str, Any],
    tokens: int,
    *,
    own_loss: bool,
    pretrained: str | None,
    window: int | None = None,
) -> PlainModule:
    """The module of this import path; it is told vocab_size where it names it."""
    kind = import_object(name, "model.module")
    rows = padded_vocab(tokens)
    size = sized(kind, rows)
    check_arguments(kind, arguments, "model.arguments", given=size)
    model = PlainModule(kind(**size, **arguments), rows, tokens, own_loss)
    check_window(window, model.facts.max_positions)
    if pretrained is not None:
        load_module(model, pretrained, arguments)
    return model


def dress_huggingface(
    name: str,
    arguments: dict[str, Any],
    *,
    tokens: int,
    special_ids: SpecialIds,
    attention: str | None,
    own_loss: bool,
    pretrained: str | None,
    revision: str | None,
    trust_remote_code: bool,
    window: int | None = None,
) -> TrainableModel:
    """The class of this name; transformers is imported here, and only where it is used."""
    kind = import_object(name if "." in name else f"transformers.{name}", "model.huggingface")
    from models import hf, hf_loading

    if pretrained is None:
        inner = hf_loading.from_config(kind, arguments, attention, tokens, special_ids, window)
    else:
        try:
            inner, unused = hf_loading.from_pretrained(
                kind, pretrained, arguments, attention, tokens, special_ids, revision, trust_remote_code, window
            )
        except OSError as problem:  # no such directory, name or file; no network
            where = f"{pretrained} is no directory with a model, and the Hub does not give it"
            raise UserError(f"model.pretrained: {where} ({first_line(problem)})") from problem
        if unused:
            more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
            warn(f"{pretrained} also has weights that {name} does not use: {', '.join(unused[:5])}{more}")
    return hf.HuggingFaceModel(inner, tokens, own_loss)


def sized(kind: type, rows: int) -> dict[str, int]:
    """What Liftoff itself passes to a class: the rows of the embedding, where it names `vocab_size`."""
    takes = accepts(kind)
    return {"vocab_size": rows} if takes is None or "vocab_size" in takes else {}


def recompute_activations(model: TrainableModel) -> None:
    """Activations inside of a block are not kept for the backward pass but computed again.

    Raises ValueError where there are no blocks to do it by.
    """
    inner = getattr(model, "inner", None)
    if hasattr(inner, "activation_checkpointing_enable"):
        inner.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        return
    module = model.backbone if inner is None else inner
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        name = type(module).__name__
        raise ValueError(f"activation_checkpointing needs a ModuleList `blocks`, which {name} does not have")
    for block in blocks:
        block.forward = recomputed(block.forward)


def recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; its inner activations are computed again in the backward pass."""

    @functools.wraps(forward)
    def run(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    return run


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Files of models/ raise ValueError, so that they can be lifted out; here it becomes a message to the user."""
    try:
        yield
    except (ValueError, ImportError) as problem:
        raise UserError(f"model: {first_line(problem)}") from problem


def first_line(problem: Exception) -> str:
    """Messages of transformers run to whole paragraphs."""
    return str(problem).strip().partition("\n")[0]


@contextlib.contextmanager
def new_weights_from(seed: int) -> Iterator[None]:
    """Weights drawn inside depend on the seed alone, and nothing outside on how many were drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
