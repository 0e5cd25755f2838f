"""A directory of weights -> a model of ours that goes on from them: what an earlier run has exported, or a Llama's.

Only safetensors are read; other formats can run code. Everything that does not fit is named, and nothing is left at its
initial weights in silence.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.language_model import LanguageModel, load_weights
from models.llama_format import CLASSES, arguments_from_config, arguments_of, from_llama
from models.transformer import Transformer

# What may differ between a checkpoint and the model that goes on from it.
FREE = {"vocab_size", "max_seq_len", "dropout"}
INNER = "inner."  # the model within the wrapper of hf_export_template.py


def load_backbone(model: LanguageModel, directory: str | Path) -> list[str]:
    """Copies weights into the model: those of a Llama or Qwen3, of an exported backbone, or of `LanguageModel.save`.

    An embedding of another number of rows is fitted. -> what a user wants to know.
    Raises ValueError that says what does not fit.
    """
    config, weights = read_directory(directory)
    if config.get("model_type") in CLASSES:
        weights = _of_llama(model, config, weights, str(directory))
    elif "backbone" in config:
        _refuse_others(config["arguments"], model.arguments, str(directory))
    else:
        weights = _of_wrapper(config, weights, model.arguments, str(directory))
    weights, notes = _fit_rows(model, weights)
    if model.head is None and "head.weight" in weights:
        raise ValueError(f"{directory} has a head of its own; set model.tie_embeddings: false")
    if model.head is not None and "head.weight" not in weights and "backbone.embedding.weight" in weights:
        weights["head.weight"] = weights["backbone.embedding.weight"].clone()
        notes.append("the head was tied there; here it begins as a copy of the embedding")
    load_weights(model, weights, str(directory))
    return notes


def load_module(model: nn.Module, directory: str | Path, arguments: dict[str, Any]) -> None:
    """The same for any module (dressed as models.plain does, built with arguments), from an earlier run's export."""
    config, weights = read_directory(directory)
    load_weights(model, _of_wrapper(config, weights, arguments, str(directory)), str(directory))


def read_directory(directory: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """-> config.json, and all weights by name. Raises ValueError where they are not there."""
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise ValueError(f"no config.json in {directory}; a run's model lies in runs/<name>/model")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    weights: dict[str, Tensor] = {}
    for name in names:
        if not (directory / name).is_file():
            raise ValueError(f"no {name} in {directory} (weights in other formats are not read)")
        weights |= load_file(directory / name)
    return config, weights


def _of_llama(model: LanguageModel, config: dict[str, Any], theirs: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Weights of a Llama under the names of ours."""
    wanted = arguments_from_config(config)
    if isinstance(model.backbone, Transformer):
        _refuse_others(wanted, arguments_of(model.backbone), where)
    weights, head, left = from_llama(theirs)
    if left:
        raise ValueError(f"{where} has weights that models.transformer.Transformer does not: {', '.join(left[:5])}")
    named = {f"backbone.{name}": weight for name, weight in weights.items()}
    return named if head is None else named | {"head.weight": head}


def _of_wrapper(
    config: dict[str, Any], weights: dict[str, Tensor], arguments: dict[str, Any], where: str
) -> dict[str, Tensor]:
    """Weights of the wrapper, under the names within, tied ones under each of their names."""
    if not all(name.startswith(INNER) for name in weights):
        raise ValueError(
            f"{where} (model_type {config.get('model_type')}) is no model that Liftoff has dressed; "
            "a model of transformers goes under model.huggingface"
        )
    _refuse_others(config.get("architecture") or {}, arguments, where)
    weights = weights | {name: weights[source] for name, source in config.get("tied", {}).items()}
    return {name.removeprefix(INNER): weight for name, weight in weights.items()}


def _refuse_others(theirs: dict[str, Any], ours: dict[str, Any], where: str) -> None:
    """Refuses weights of a model built otherwise: heads or angles that differ show in no shape."""
    names = [name for name in theirs if name in ours and name not in FREE and theirs[name] != ours[name]]
    if names:
        differ = [f"{name} is {theirs[name]} there, {ours[name]} here" for name in names]
        raise ValueError(f"{where} is of another model: {'; '.join(differ)}")


def _fit_rows(model: LanguageModel, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Embedding and head with as many rows as the model's: new rows keep their initial weights."""
    weights, notes = dict(weights), []
    for name in ("backbone.embedding.weight", "head.weight"):
        own, read = model.state_dict().get(name), weights.get(name)
        if own is None or read is None or own.shape == read.shape or own.shape[1:] != read.shape[1:]:
            continue
        rows = min(len(own), len(read))
        weights[name] = torch.cat((read[:rows].to(own.dtype), own[rows:].cpu()))
        notes.append(f"{name} has {len(read)} rows there and {len(own)} here; the first {rows} are kept")
    return weights, notes
