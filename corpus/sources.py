"""A config -> the sources that its splits are read from (see inputs.py)."""

from pathlib import Path
from typing import Any

from configs.places import REPOSITORY, raw_dir, splits
from configs.schema import Config
from corpus import synthetic
from corpus.fields import OF_KIND
from corpus.files import find
from corpus.functions import Call, FunctionSource
from corpus.hub_rows import HubSource, hub_split
from corpus.inputs import FileSource, Share, Source
from corpus.raw import is_streamed, raw_manifest
from corpus.splitting import CUT, share
from utils.files import shown
from utils.hashing import sha256_file
from utils.imports import check_arguments, import_object
from utils.messages import UserError


def sources(config: Config) -> list[Source]:
    """What the splits of a config are read from; splits that are cut from the same files share a source.

    Raises UserError where a path names nothing, or raw text is missing."""
    groups: dict[Any, list[str]] = {}
    for split in splits(config):
        if has_split(config, split):
            groups.setdefault(_cut_from(config, split), []).append(split)
    return [_source(config, names) for names in groups.values()]


def _cut_from(config: Config, split: str) -> str | None:
    """Splits of which this is the same are cut from one source."""
    if is_streamed(config):
        return hub_split(config, split)
    return split if config.dataset.source != "files" or own_path(config, split) is not None else None


def source_of(config: Config, split: str) -> Source | None:
    """The source of one split alone; None where the config names none."""
    return _source(config, [split]) if has_split(config, split) else None


def _source(config: Config, names: list[str]) -> Source:
    dataset, split = config.dataset, names[0]
    longest = config.tokenize.max_document_bytes
    if dataset.source == "files":
        shares = {name: share_of(config, name) for name in names}
        return FileSource(shares, split_files(config, split), dataset.text_unit, longest, dataset.kind)
    if is_streamed(config):
        return HubSource(config, names)
    if dataset.source in ("hub", "sample"):
        files = [[raw_dir(config) / entry["name"]] for entry in _checked_raw(config, split)]
        return FileSource({split: (0.0, 1.0)}, files, "file", longest, dataset.kind)
    if dataset.source == "synthetic":
        check_arguments(synthetic.documents, dataset.arguments, "dataset.arguments", ("split", "kind"))
        call = Call(synthetic.documents, (split, dataset.kind), dataset.arguments)
        return FunctionSource(split, call, f"synthetic {split}", [synthetic.VERSION, split, dataset.arguments])
    function = import_object(dataset.source, "dataset.source")
    check_arguments(function, dataset.arguments, "dataset.arguments", ("split",))
    code = sha256_file(Path(function.__code__.co_filename))
    identity = [dataset.source, split, dataset.arguments, code]
    return FunctionSource(split, Call(function, (split,), dataset.arguments), f"{dataset.source}('{split}')", identity)


def _checked_raw(config: Config, split: str) -> list[dict[str, Any]]:
    entries = raw_manifest(config)["splits"][split]["files"]
    for entry in entries:
        path = raw_dir(config) / entry["name"]
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise UserError(
                f"{shown(path)} is not what its manifest says; make it again with "
                "python -m data_setup.download_dataset CONFIG --restart"
            )
    return entries


def has_split(config: Config, split: str) -> bool:
    """Whether the config says where the split's documents come from. (There may still turn out to be none.)"""
    dataset = config.dataset
    if dataset.source == "files":
        low, high = share_of(config, split)
        return high > low
    if is_streamed(config):
        return _cut_from(config, split) is not None
    if dataset.source in ("hub", "sample"):
        return split in raw_manifest(config)["splits"]
    return True


def share_of(config: Config, split: str) -> Share:
    """The part of the documents of its source that the split has: (0, 1) is all, (0, 0) none."""
    dataset = config.dataset
    if dataset.source != "files" or own_path(config, split) is not None:
        return 0.0, 1.0
    if dataset.path is None or split not in CUT:
        return 0.0, 0.0
    return share(dataset, split, tuple(name for name in CUT if own_path(config, name) is None))


def own_path(config: Config, split: str) -> str | list[str] | None:
    """The path that the config gives for this split alone."""
    dataset = config.dataset
    if split == "train":
        return dataset.train_path
    if split == "test":
        return dataset.test_path
    if isinstance(dataset.validation_path, dict):
        return dataset.validation_path.get(split)
    return dataset.validation_path if split == "validation" else None


def split_files(config: Config, split: str) -> list[list[Path]]:
    """The files of a split, in order: each by itself, or two that belong together line by line."""
    path = own_path(config, split) or config.dataset.path
    if path is None:
        known = ", ".join(splits(config))
        raise UserError(
            f"dataset: no path for the split '{split}' of {known}; set dataset.path, or dataset.{split}_path"
        )
    if isinstance(path, str):
        return [[file] for file in find(REPOSITORY / path)]
    if len(path) != 2 or len(OF_KIND[config.dataset.kind]) != 2:
        raise UserError(
            "dataset: a list of paths is two line-parallel files of kind pairs or prompt_response; this is "
            f"{len(path)} of kind {config.dataset.kind}. A folder or a pattern names many files"
        )
    pair = [find(REPOSITORY / one) for one in path]
    if [len(files) for files in pair] != [1, 1]:
        raise UserError(f"dataset: line-parallel paths name one file each: {path[0]}, {path[1]}")
    return [[pair[0][0], pair[1][0]]]
