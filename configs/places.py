"""Config -> where its stages read and write: pure functions, used by every script."""

import os
from pathlib import Path

from configs.schema import Config

REPOSITORY = Path(__file__).resolve().parent.parent


def dataset_name(config: Config) -> str:
    """The dataset's folder name under paths.data: dataset.name (and its subset), else the source's own name."""
    dataset = config.dataset
    name = dataset.name or (config.name if dataset.source == "files" else dataset.source.rpartition(".")[2]) or "files"
    parts = [name.rstrip("/").rpartition("/")[2] if os.path.isabs(name) else name.replace("/", "--"), dataset.subset]
    return "--".join(part for part in parts if part)


def data_dir(config: Config) -> Path:
    """The folder of everything made from this dataset."""
    return REPOSITORY / config.paths.data / dataset_name(config)


def raw_dir(config: Config) -> Path:
    """Where the raw text that was downloaded or made lies."""
    return REPOSITORY / config.dataset.raw_path if config.dataset.raw_path else data_dir(config) / "raw"


def tokenizer_dir(config: Config) -> Path:
    """Where a tokenizer that is trained here lies."""
    return data_dir(config) / "tokenizer"


def shards_dir(config: Config) -> Path:
    """Where the token shards lie, a folder for each split."""
    return REPOSITORY / config.tokenize.path if config.tokenize.path else data_dir(config) / "tokens"


def run_dir(config: Config) -> Path:
    """Where all of a run lies."""
    return REPOSITORY / config.paths.runs / (config.name or "run")


def validation_names(config: Config) -> list[str]:
    """The names of the validation sets, in the config's order: several where dataset.validation_path names them."""
    paths = config.dataset.validation_path
    return list(paths) if isinstance(paths, dict) else ["validation"]


def splits(config: Config) -> list[str]:
    """Every split by name: train, the validation sets, test."""
    return ["train", *validation_names(config), "test"]
