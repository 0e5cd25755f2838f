"""Config -> where its stages read and write: pure functions, used by every script."""

import os
from pathlib import Path

from configs.schema import Config
from utils.files import REPOSITORY as REPOSITORY


def dataset_name(config: Config) -> str:
    """The dataset's folder under paths.data: dataset.name (with its subset), else named after where it comes from."""
    dataset = config.dataset
    if dataset.name:
        name = Path(dataset.name).name if os.path.isabs(dataset.name) else dataset.name.replace("/", "--")
        return f"{name}--{dataset.subset}" if dataset.subset else name
    if dataset.source == "files":
        return _name_of_files(dataset.path or dataset.train_path, is_one_split=dataset.path is None)
    return dataset.source.rpartition(".")[2]


def _name_of_files(paths: str | list[str] | None, is_one_split: bool) -> str:
    """corpus/, corpus.jsonl.gz, corpus/*.txt and (as train_path) corpus/train.jsonl -> corpus."""
    path = Path(paths[0] if isinstance(paths, list) else paths or "files")
    name = path.name.partition(".")[0]
    is_unnamed = is_one_split or not name or any(letter in path.name for letter in "*?[")
    if is_unnamed and path.parent.name:
        name = path.parent.name
    return "".join(letter for letter in name if letter not in "*?[]") or "files"


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


def mixture_sources(config: Config) -> dict[str, Path]:
    """The sources of data.mixture by name, in the config's order, and the folder of each one's shards.

    A key without a slash is the name of a dataset, tokenised by a config of its own; one with a slash is the path of
    its shards, and the source is named after the dataset's folder."""
    return {_source_name(key): _source_folder(config, key) for key in config.data.mixture or {}}


def _source_name(key: str) -> str:
    path = Path(key)
    return path.parent.name if "/" in key and path.name == "tokens" and path.parent.name else path.name


def _source_folder(config: Config, key: str) -> Path:
    return REPOSITORY / key if "/" in key else REPOSITORY / config.paths.data / key / "tokens"


def split_dir(config: Config, split: str) -> Path:
    """The folder of a split's shards. Of a mixture `web` is the validation split of the source web, and its others are
    `web.train` and `web.test`."""
    for name, folder in mixture_sources(config).items():
        if split in (name, f"{name}.train", f"{name}.test"):
            return folder / (split.removeprefix(name).removeprefix(".") or "validation")
    return shards_dir(config) / split


def validation_names(config: Config) -> list[str]:
    """The names of the validation sets, in the config's order: the sources of a mixture, or several where
    dataset.validation_path names them."""
    return list(mixture_sources(config)) or _own_validation_names(config)


def scored_splits(config: Config) -> list[str]:
    """What inference.split can name."""
    sources = mixture_sources(config)
    return [split for name in sources for split in (name, f"{name}.test", f"{name}.train")] or splits(config)


def splits(config: Config) -> list[str]:
    """Every split of the config's own dataset, by name: train, the validation sets, test."""
    return ["train", *_own_validation_names(config), "test"]


def _own_validation_names(config: Config) -> list[str]:
    paths = config.dataset.validation_path
    return list(paths) if isinstance(paths, dict) else ["validation"]
