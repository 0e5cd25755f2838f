"""A dataset on the Hub (or a directory in the Hub's layout) -> its splits as streams, and as sources of documents.

With `dataset.streamed` nothing of it is stored: a unit is one of the split's files, read as it comes. The commit is
written down before the first row is read, and everything made of the dataset is made of that one, wherever its branch
may have moved.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.pins import recorded, revision_of
from configs.places import REPOSITORY, data_dir
from configs.schema import Config
from corpus.files import Row
from corpus.inputs import Share, Source
from corpus.splitting import CUT, share
from utils.files import make_folder, read_json, shown, write_json
from utils.hashing import sha256_file, sha256_json
from utils.messages import UserError

Streams = dict[str, Any]  # the Hub's splits by name, as `datasets` streams them


def open_streams(config: Config, revision: str | None) -> Streams:
    """None of them read yet. revision: commit, tag or branch; None: the newest.

    Raises UserError where they cannot be had."""
    import datasets

    dataset = config.dataset
    if not dataset.name:
        raise UserError(
            "dataset.source is hub, but dataset.name names no dataset; set it to a name such as org/dataset"
        )
    datasets.disable_progress_bars()
    local, files = _on_this_machine(config)
    try:
        if local is not None:
            return dict(datasets.load_dataset(str(local), dataset.subset, data_files=files, streaming=True))
        return dict(datasets.load_dataset(dataset.name, dataset.subset, revision=revision, streaming=True))
    except Exception as problem:
        raise _not_there(config, problem) from problem


def newest_commit(config: Config) -> str | None:
    """The commit that the dataset stands at now, or was fetched at; None for a directory, or without a network.

    Raises UserError where the Hub does not know it."""
    from huggingface_hub import HfApi, constants

    revision = revision_of(config, "dataset")
    local, _ = _on_this_machine(config)
    if local is not None or constants.HF_HUB_OFFLINE:
        return revision
    try:
        return HfApi().dataset_info(str(config.dataset.name), revision=revision).sha
    except Exception as problem:
        raise _not_there(config, problem) from problem


def _not_there(config: Config, problem: Exception) -> UserError:
    dataset = config.dataset
    place = "directory" if directory(config) else "Hub"
    return UserError(
        f"dataset {dataset.name}{f' ({dataset.subset})' if dataset.subset else ''} cannot be had from the {place}: "
        f"{first_line(problem)}; check dataset.name, subset and revision, and the network"
    )


def first_line(problem: Exception) -> str:
    """What it says."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def directory(config: Config) -> Path | None:
    """The directory in the Hub's layout that dataset.name is, if it is one."""
    path = REPOSITORY / (config.dataset.name or ".")
    return path if config.dataset.name and path.is_dir() else None


def _on_this_machine(config: Config) -> tuple[Path | None, dict[str, list[str]] | None]:
    """-> the directory to read, and of one that `data_setup.fetch` has brought which files; None for the Hub itself."""
    local, fetched = directory(config), recorded(config, "dataset")
    if local is not None or not fetched or not fetched.get("splits"):
        return local, None
    from huggingface_hub import try_to_load_from_cache

    name = next(iter(fetched["files"]))
    path = try_to_load_from_cache(fetched["name"], name, revision=fetched["commit"], repo_type="dataset")
    return (Path(path.removesuffix(name)), fetched["splits"]) if isinstance(path, str) else (None, None)


def wanted(config: Config, there: list[str]) -> dict[str, list[str]]:
    """Which of our splits come from which of the Hub's; what the Hub lacks is cut from train.

    there: the Hub's splits. Raises UserError where a split that was named is not among them."""
    mapping = config.dataset.splits
    ours_of: dict[str, list[str]] = {}
    for ours, name in mapping.items():
        if name not in there and (ours == "train" or name != ours):
            raise UserError(f"dataset.splits: the dataset has no split '{name}'; it has {', '.join(there)}")
        ours_of.setdefault(name if name in there else mapping["train"], []).append(ours)
    return ours_of


def shares_of(config: Config, ours: list[str]) -> dict[str, Share]:
    """What each of our splits gets of one of the Hub's that they are cut from."""
    cut = tuple(split for split in CUT if split in ours)
    return {split: share(config.dataset, split, cut) if len(ours) > 1 else (0.0, 1.0) for split in ours}


def records(name: str, stream: Any) -> Iterator[dict[str, Any]]:
    """The records of a stream. name: of the split. Raises UserError where it breaks off."""
    try:
        yield from stream
    except Exception as problem:
        raise UserError(
            f"the download of the split '{name}' broke off: {first_line(problem)}; the same command goes on from here"
        ) from problem


# Streamed: no raw text is stored


def pinned(config: Config) -> dict[str, Any]:
    """What is read of the dataset: {"commit", "units": {split of the Hub: files}}.

    Of the Hub it is written down the first time, in data/<name>/streamed.json, and stays; a directory is looked at
    anew.
    """
    dataset, path = config.dataset, record_path(config)
    key = {"name": dataset.name, "subset": dataset.subset, "asked": revision_of(config, "dataset")}
    if directory(config) is None and path.is_file():
        noted = read_json(path)
        if {name: noted.get(name) for name in key} == key:
            return noted
    commit = newest_commit(config)
    units = {name: stream.num_shards for name, stream in open_streams(config, commit).items()}
    found = {**key, "commit": commit, "units": units}
    if directory(config) is None:
        make_folder(path.parent)
        write_json(path, found)
    return found


def record_path(config: Config) -> Path:
    """Where the commit of a streamed dataset is written down."""
    return data_dir(config) / "streamed.json"


def hub_split(config: Config, split: str) -> str | None:
    """The Hub's split that one of ours is read from; None where the config has no such split."""
    found = wanted(config, list(pinned(config)["units"]))
    name = next((name for name, ours in found.items() if split in ours), None)
    if name is None:
        return None
    low, high = shares_of(config, found[name])[split]
    return name if high > low else None


class HubSource(Source):
    """One of the Hub's splits. A unit is a file of it, which only the main process reads."""

    def __init__(self, config: Config, names: list[str]) -> None:
        """names: our splits that are read from it."""
        pin = pinned(config)
        self.name = hub_split(config, names[0])
        assert self.name is not None
        shares = shares_of(config, wanted(config, list(pin["units"]))[self.name])
        super().__init__({split: shares[split] for split in names})
        self.config, self.commit, self.units = config, pin["commit"], pin["units"][self.name]
        self._stream: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}  # another process opens its own

    def unit_bytes(self, unit: int) -> int:
        """Not known before a file is read."""
        return 0

    def rows(self, unit: int, start: int = 0) -> Iterator[tuple[int, Row]]:
        """Of one file, as it comes. Raises UserError where the split has another number of files by now."""
        if self._stream is None:
            self._stream = open_streams(self.config, self.commit)[self.name]
        if self._stream.num_shards != self.units:
            raise UserError(
                f"dataset {self.config.dataset.name}: the split '{self.name}' has {self._stream.num_shards} files now "
                f"and had {self.units} when it was first read; remove {shown(record_path(self.config))} and begin anew"
            )
        file = self._stream.shard(num_shards=self.units, index=unit)
        # By batches of one: iterated by itself it would see torch's worker processes, and give each only a share.
        batches = records(str(self.name), (file.skip(start) if start else file).iter(1))
        rows = ({name: plain(values[0]) for name, values in batch.items()} for batch in batches)
        return ((number, Row("", record)) for number, record in enumerate(rows, start))

    def where(self, unit: int, row: int) -> str:
        """Dataset, split, file and row."""
        return f"{self.config.dataset.name} ({self.name}), file {unit + 1} of {self.units}:{row + 1}"

    def digest(self, unit: int) -> str:
        """Of the commit and the number of the file; of a directory also of what its files hold."""
        return sha256_json([self._identity, self._contents, unit])

    def changed_since(self, time: float) -> bool:
        """Only a directory can: a commit stays what it is."""
        return any(path.stat().st_mtime >= time for path in self._files)

    def sizes(self) -> str:
        """Of a directory's files; of a dataset on the Hub the commit alone."""
        files = [[str(path.relative_to(self._root)), path.stat().st_size] for path in self._files]
        return sha256_json([self._identity, files])

    @property
    def _identity(self) -> list[Any]:
        local = directory(self.config) is not None  # which may lie anywhere
        return [None if local else self.config.dataset.name, self.config.dataset.subset, self.name, self.commit]

    @property
    def _root(self) -> Path:
        return directory(self.config) or Path()

    @property
    def _files(self) -> list[Path]:
        """Of a directory; a dataset on the Hub is what its commit says."""
        local = directory(self.config)
        return [] if local is None else sorted(path for path in local.rglob("*") if path.is_file())

    @cached_property
    def _contents(self) -> list[list[str]]:
        return [[str(path.relative_to(self._root)), sha256_file(path)] for path in self._files]


def plain(value: Any) -> Any:
    """What JSON does not know (dates …) as text, as in raw text that is stored."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else str(value)
