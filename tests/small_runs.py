"""The smallest run that can be evaluated: a model with random weights in a checkpoint, its config, and token shards."""

import json
from pathlib import Path
from typing import Any

import torch
from small_data import config_for, small_tokenizer, write_documents

from configs import places
from configs.schema import Config
from corpus.tokenising import tokenise
from evaluation.opening import built
from training import checkpoints
from utils.run_directory import RunDirectory

TINY = {"arguments": {"width": 32, "depth": 1, "heads": 2}}


def small_run(folder: Path, fields: tuple[str, ...] = ("text",), documents: int = 30, **sections: Any) -> Config:
    """Writes text, tokenizer, shards and a run of step 7. fields: of the documents. -> its config"""
    tokenizer = small_tokenizer(folder / "tokenizer")
    path = write_documents(folder / "data.jsonl", documents, fields=fields, longest=8)
    config = config_for(folder, path, **({"model": TINY} | sections)).model_copy(update={"name": "small"})
    tokenise(config, tokenizer)
    write_checkpoint(config, sharpened(built(config, tokenizer)))
    return config


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    """New weights say nearly the same of every token; larger ones have opinions."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    return model


def write_checkpoint(config: Config, model: torch.nn.Module, step: int = 7) -> Path:
    """As training writes it."""
    run = RunDirectory(places.run_dir(config))
    if not run.config.exists():
        run.open(config)
    state = {"step": step, "history": [], "facts": {}}
    tensors = {"model": checkpoints.model_tensors(model)}
    checkpoints.write(run.checkpoints, checkpoints.name_of("step", step), tensors, state)
    return checkpoints.write(run.checkpoints, checkpoints.name_of("best", step), tensors, state)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
