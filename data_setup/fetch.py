"""Config -> all that it names on the Hub, brought to this machine and recorded: for compute nodes without internet.

    python -m data_setup.fetch configs/user_configs/mine.yaml     on the login node
    python -m tools.preflight configs/user_configs/mine.yaml      proves that nothing is missing

Raw text goes where the download stage puts it; tokenizer, model and the files of a streamed dataset go into the cache
of huggingface_hub (HF_HOME). data/<name>/fetched.json records commits and checksums: every later stage uses these
commits, and fetching again brings what is missing and checks the rest.
"""

import os
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from configs.command_line import again, run_stage
from configs.pins import What, asked, key_of, place_of, record_path, recorded
from configs.places import REPOSITORY, dataset_name, raw_dir
from configs.schema import Config
from utils.files import read_json, shown, write_json
from utils.hashing import sha256_bytes, sha256_file
from utils.messages import UserError, duration, progress, size, table

AT_ONCE = 8  # downloads
CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")  # of a dataset: what says how its files are read
Entry = dict[str, Any]


def main(config: Config, flags: Namespace) -> None:
    """Brings and records dataset, tokenizer and model. Raises UserError for what cannot be had."""
    started = time.monotonic()
    if flags.update:
        forget(config)
    rows = []
    for entry in (dataset(config, flags.update), *tokenizers(config), *models(config)):
        if entry is not None:
            record(config, entry)
            sizes = sum(file["bytes"] for file in entry["files"].values())
            commit = f" at {entry['commit'][:12]}" if entry["commit"] else ""
            rows.append((entry["what"], f"{entry['name']}{commit}: {len(entry['files']):,} files, {size(sizes)}"))
    rows += [("recorded in", shown(record_path(config))), ("done in", duration(time.monotonic() - started))]
    table(f"Fetched for {config.name}", rows, [f"python -m tools.preflight {again(flags)}"])


def forget(config: Config) -> None:
    """Takes out of the record what this config names, so that the newest commits are fetched."""
    path = record_path(config)
    if path.is_file():
        ours = [(what, *asked(config, what)) for what in ("dataset", "tokenizer", "retrain", "model")]
        write_json(path, {"fetched": [entry for entry in read_json(path)["fetched"] if key_of(entry) not in ours]})


def record(config: Config, entry: Entry) -> None:
    """Writes what was fetched down, in place of an earlier fetch of the same. Raises UserError where files differ."""
    path = record_path(config)
    entries = read_json(path)["fetched"] if path.is_file() else []
    for old in entries:
        if key_of(old) == key_of(entry) and old["commit"] is not None and old["commit"] == entry["commit"]:
            differ = [name for name, file in entry["files"].items() if old["files"].get(name, file) != file]
            if differ:
                raise UserError(
                    f"{entry['what']} {entry['name']}: {', '.join(differ[:3])} is not what was fetched before at the "
                    f"same commit, says {shown(path)}; remove the damaged file and fetch again"
                )
    entries = [old for old in entries if key_of(old) != key_of(entry)]
    write_json(path, {"fetched": sorted([*entries, entry], key=lambda one: (one["what"], one["name"]))})


# -- what a config needs --


def dataset(config: Config, update: bool) -> Entry | None:
    """Raw text, made as the download stage makes it; the files of a dataset that is streamed; files where they lie."""
    source = config.dataset.source
    if config.data.mixture is not None:
        return None  # corpora with configs of their own
    if source == "hub" and config.dataset.streamed:
        return streamed(config)
    if source in ("hub", "sample"):
        return raw_text(config, update)
    if source == "files":
        return local_files(config)
    return None  # made out of nothing, or by the user's own function


def tokenizers(config: Config) -> list[Entry]:
    """The config's own, and one whose pipeline is trained anew."""
    from tokenizer.finding import HUB_FILES, find_files

    entries = []
    kinds: tuple[What, ...] = ("tokenizer", "retrain")
    for what in kinds:
        name = asked(config, what)[0]
        if name is None:
            continue
        here = place_of(name)
        if here is None:
            entries.append(
                from_hub(
                    config,
                    what,
                    lambda names, _: [name for name in names if any(fnmatch(name, one) for one in HUB_FILES)],
                )
            )
        else:
            files = {
                file: {"bytes": len(data), "sha256": sha256_bytes(data)} for file, data in find_files(str(here)).items()
            }
            entries.append(entry_of(config, what, None, files))
    return entries


def models(config: Config) -> list[Entry]:
    """Pretrained weights, and the code beside them where the config trusts it."""
    name, trusted = config.model.pretrained, config.model.trust_remote_code
    if name is None:
        return []
    here = place_of(name)
    if here is None and config.model.huggingface is None:
        raise UserError(f"model.pretrained: no directory {name}, and only model.huggingface takes names on the Hub")
    if here is None:
        found = from_hub(config, "model", lambda names, _: model_files(names, trusted))
        return [found, *(code_of(other) for other in other_code(found))] if trusted else [found]
    if not here.is_dir():
        raise UserError(f"model.pretrained: {name} is no directory")
    return [
        entry_of(config, "model", None, described(here, sorted(path.name for path in here.iterdir() if path.is_file())))
    ]


def model_files(names: list[str], trusted: bool) -> list[str]:
    """What transformers reads of a repository: configs, weights as safetensors if there are any, code if trusted."""
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if name.startswith("model") and ".safetensors" in name]
    weights = weights or [name for name in top if name.startswith("pytorch_model") and ".bin" in name]
    if not weights:
        raise UserError("it holds no weights that can be read (model*.safetensors or pytorch_model*.bin)")
    code = [name for name in names if name.endswith(".py")] if trusted else []
    return sorted({*weights, *code, *(name for name in top if name.endswith(".json") and ".index." not in name)})


def other_code(model: Entry) -> list[str]:
    """Repositories whose code the model's config names: "org/name--module.Class"."""
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(model["name"], "config.json", revision=model["commit"])
    named = read_json(path).get("auto_map", {}).values()
    return sorted({one.partition("--")[0] for one in named if isinstance(one, str) and "--" in one})


def code_of(name: str) -> Entry:
    """The modules of such a repository. transformers takes those of its main branch, so that is what is kept."""
    with refusals("code", name):
        commit, sizes = commit_and_files(name, "model", None)
        names = sorted(file for file in sizes if file.endswith(".py"))
        folder = download(name, "model", "main", {file: sizes[file] for file in names})
    return {"what": "code", "name": name, "asked": None, "commit": commit, "files": described(folder, names)}


def raw_text(config: Config, update: bool) -> Entry:
    """What `python -m data_setup.download_dataset` makes, unless it is there."""
    from data_setup import hub, sample_corpus
    from data_setup.raw_text import RawFolder

    folder = RawFolder(config)
    if update and folder.finished and config.dataset.source == "hub":
        name, revision = asked(config, "dataset")
        if (
            place_of(str(name)) is None
            and commit_and_files(str(name), "dataset", revision)[0] != folder.notes["revision"]
        ):
            folder = RawFolder(config, restart=True)
    if not folder.finished:
        {"hub": hub.make, "sample": sample_corpus.make}[config.dataset.source](config, folder)
    files = {
        file["name"]: {"bytes": file["bytes"], "sha256": file["sha256"]}
        for split in folder.splits.values()
        for file in split["files"]
    }
    return entry_of(config, "dataset", folder.notes.get("revision"), files) | {"raw": shown(raw_dir(config))}


def streamed(config: Config) -> Entry:
    """The files of the Hub's splits that the config reads. They are tokenised from the cache, without raw text."""
    import datasets

    name, subset = str(config.dataset.name), config.dataset.subset
    here = place_of(name)
    wanted: dict[str, list[str]] = {}

    def choose(names: list[str], commit: str) -> list[str]:
        builder = datasets.load_dataset_builder(name, subset, revision=commit)
        for split, urls in (builder.config.data_files or {}).items():
            if str(split) in config.dataset.splits.values():
                wanted[str(split)] = [str(url).partition(f"@{commit}/")[2] for url in urls]
        return [
            *(card for card in CARDS if card in names),
            *sorted({file for files in wanted.values() for file in files}),
        ]

    if here is not None:
        return entry_of(config, "dataset", None, sizes_of([path for path in sorted(here.rglob("*")) if path.is_file()]))
    return from_hub(config, "dataset", choose, "dataset") | {"splits": wanted}


def local_files(config: Config) -> Entry:
    """Files where they lie: that they are there, and their sizes. (Tokenising reads and hashes them anyway.)"""
    from corpus.files import find

    dataset = config.dataset
    files: list[Path] = []
    for value in (dataset.path, dataset.train_path, dataset.validation_path, dataset.test_path):
        for paths in value.values() if isinstance(value, dict) else [value]:
            for path in [paths] if isinstance(paths, str) else paths or []:
                files += find(REPOSITORY / path)
    return entry_of(config, "dataset", None, sizes_of(files))


# -- the Hub --


def from_hub(config: Config, what: What, choose: Callable[[list[str], str], list[str]], kind: str = "model") -> Entry:
    """Downloads what `choose` picks of a repository's files, at the recorded commit if there is one."""
    name, revision = asked(config, what)
    known = recorded(config, what)
    assert name is not None
    with refusals(what, name):
        if os.path.isabs(name):
            raise UserError("there is no such path on this machine")
        commit, sizes = commit_and_files(name, kind, known["commit"] if known else revision)
        names = choose(list(sizes), commit)
        if not names:
            raise UserError("it holds nothing that can be read")
        folder = download(name, kind, commit, {file: sizes[file] for file in names})
    return entry_of(config, what, commit, described(folder, names))


@contextmanager
def refusals(what: str, name: str) -> Iterator[None]:
    """Whatever the Hub's libraries raise, as one line that says of what."""
    try:
        yield
    except Exception as problem:
        said = str(problem).strip().splitlines() or [type(problem).__name__]
        raise UserError(
            f"{what} {name} cannot be had from the Hub: {said[0]}; check name, revision and network, and for what only "
            "some may read: hf auth login"
        ) from problem


def commit_and_files(name: str, kind: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """-> the commit, and the bytes of every file of the repository."""
    from huggingface_hub import HfApi

    info = HfApi().repo_info(name, repo_type=kind, revision=revision, files_metadata=True)
    return str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or []}


def download(name: str, kind: str, revision: str, sizes: dict[str, int]) -> Path:
    """Files into the cache, several at once. -> the folder that they are in"""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    missing = [file for file in sizes if not try_to_load_from_cache(name, file, revision=revision, repo_type=kind)]
    needed, free = sum(sizes[file] for file in missing), shutil.disk_usage(cache).free
    if needed > free:
        raise UserError(f"it is {size(needed)}, and {cache} has {size(free)} left; set HF_HOME to a larger place")
    paths = []
    with progress(f"fetching {name}", sum(sizes.values()) / 1e6, "MB") as meter, ThreadPoolExecutor(AT_ONCE) as pool:
        for file, path in zip(
            sizes,
            pool.map(lambda file: hf_hub_download(name, file, repo_type=kind, revision=revision), sizes),
            strict=True,
        ):
            paths.append(path)
            meter.advance(sizes[file] / 1e6)
    return Path(paths[0].removesuffix(next(iter(sizes))))


# -- entries of the record --


def entry_of(config: Config, what: What, commit: str | None, files: dict[str, dict[str, Any]]) -> Entry:
    """What is recorded of one thing. commit: None for what lies on this machine."""
    name, revision = asked(config, what)
    return {"what": what, "name": name or dataset_name(config), "asked": revision, "commit": commit, "files": files}


def described(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Sizes and checksums of files."""
    return {name: {"bytes": os.stat(folder / name).st_size, "sha256": sha256_file(folder / name)} for name in names}


def sizes_of(files: list[Path]) -> dict[str, dict[str, Any]]:
    """Sizes alone: of corpora that are too large to be read twice."""
    return {str(path): {"bytes": path.stat().st_size} for path in files}


if __name__ == "__main__":
    run_stage(main, __doc__, {"update": "go on to the newest commits of what is recorded already"})
