"""Config -> a proof that its stages run with the network off: what each would read first is read, and opened.

    python -m tools.preflight configs/user_configs/mine.yaml

The process cuts itself off before it reads anything. No stage is run. What is missing is named with the command that
brings it, and the exit code is 2; what a stage of Liftoff makes without a network is not missing.
"""

import ctypes
import os
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.command_line import again, run_stage
from configs.pins import asked, place_of, record_path, recorded, revision_of
from configs.places import mixture_sources, raw_dir, shards_dir, splits, tokenizer_dir
from configs.schema import Config
from utils.files import read_json, shown
from utils.messages import UserError, duration, table

if TYPE_CHECKING:
    from corpus.documents import Document
    from tokenizer.tokenizer import Tokenizer

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of linux/sched.h
DOCUMENTS = 3  # of each split that are read
LIGHT = 2_000_000_000  # bytes of weights up to which the model itself is built
FETCH = "python -m data_setup.fetch"


class Later(Exception):
    """Not there yet, and a stage that needs no network makes it. The text: which."""


@dataclass
class Found:
    """What the checks have read so far."""

    arguments: str  # config and overrides, as typed
    documents: "list[Document]" = field(default_factory=list)
    tokenizer: "Tokenizer | None" = None


def main(config: Config, flags: Namespace) -> int:
    """-> exit code: 2 where something is missing."""
    started = time.monotonic()
    found = Found(again(flags))
    rows, commands = [("network", OFF)], []
    for stage, check in CHECKS.items():
        try:
            rows.append((stage, f"ok: {check(config, found)}"))
        except Later as later:
            rows.append((stage, f"ok: {later}"))
        except Exception as problem:  # whatever a stage would meet, it would not run
            said = str(problem).strip() or type(problem).__name__
            text = said if isinstance(problem, UserError) else f"{type(problem).__name__}: {said.splitlines()[0]}"
            rows.append((stage, f"MISSING: {text}"))
            commands += [brings(config, stage, found.arguments)]
    missing = sum(value.startswith("MISSING") for _, value in rows)
    rows.append(("checked in", duration(time.monotonic() - started)))
    wanted = list(dict.fromkeys(command for command in commands if command))
    table(f"{config.name} without a network: {f'{missing} missing' if missing else 'all stages run'}", rows, wanted)
    return 2 if missing else 0


def brings(config: Config, stage: str, arguments: str) -> str:
    """The command that brings what a stage misses; none for what only the user can mend."""
    what = {"raw text": "dataset", "tokenizer": "tokenizer", "model": "model"}.get(stage)
    retrained = what == "tokenizer" and config.tokenizer.path is None
    name = asked(config, "retrain" if retrained else what)[0] if what else None  # type: ignore[arg-type]
    on_hub = name is not None and not os.path.isabs(name) and place_of(name) is None
    if on_hub or stage == "record" or (what == "dataset" and config.dataset.source == "sample"):
        return f"{FETCH} {arguments}    # where there is a network"
    return ""


# -- the checks: what they say is shown; what they raise is missing --


def fetched(config: Config, _: Found) -> str:
    """The record of `data_setup.fetch`, and whether the files are those that it names."""
    names = [
        what
        for what in ("dataset", "tokenizer", "retrain", "model")
        if (name := asked(config, what)[0]) is not None and place_of(name) is None
    ]
    if not names:
        return "nothing is from the Hub"
    entries = [entry for what in names if (entry := recorded(config, what)) is not None]
    count = 0
    for entry in entries:
        for file, about in entry["files"].items():
            path = file_of(config, entry, file)
            if path is None or not path.is_file() or path.stat().st_size != about["bytes"]:
                raise UserError(f"{entry['what']} {entry['name']}: {file} is missing or not whole")
            count += 1
    absent = ", ".join(what for what in names if what not in [entry["what"] for entry in entries])
    said = [f"{count:,} files are there, as {shown(record_path(config))} says"] if entries else []
    return "; ".join(said + ([f"not recorded, so whatever this machine has: {absent}"] if absent else []))


def file_of(config: Config, entry: dict[str, Any], file: str) -> Path | None:
    """Where a recorded file lies: in the raw folder, or in the cache of huggingface_hub."""
    if "raw" in entry:
        return raw_dir(config) / file
    from huggingface_hub import try_to_load_from_cache

    kind = "dataset" if entry["what"] == "dataset" else "model"
    path = try_to_load_from_cache(entry["name"], file, revision=entry["commit"], repo_type=kind)
    return Path(path) if isinstance(path, str) else None


def raw_text(config: Config, found: Found) -> str:
    """The first documents of every split."""
    from corpus.documents import read_documents
    from corpus.sources import has_split

    if config.data.mixture is not None:
        return "not read: the corpora of data.mixture have configs of their own"
    names = [split for split in splits(config) if has_split(config, split)]
    for split in names:
        found.documents += islice(read_documents(config, split), DOCUMENTS)
    return f"first documents of {', '.join(names)} are read ({config.dataset.source})"


def tokenizer(config: Config, found: Found) -> str:
    """The tokenizer opens, and encodes the first documents. One that is to be trained needs what it is trained from."""
    from corpus.fields import texts_of
    from tokenizer.finding import find_files
    from tokenizer.tokenizer import Tokenizer

    if config.tokenizer.path is None and not tokenizer_dir(config).is_dir():
        if config.tokenizer.retrain is not None:
            here = place_of(config.tokenizer.retrain)
            find_files(str(here or config.tokenizer.retrain), revision_of(config, "retrain"))
        raise Later(f"not trained yet: python -m tokenizer.train_hf_tokenizer {found.arguments}")
    found.tokenizer = Tokenizer.configured(config)
    for document in found.documents:
        found.tokenizer.encode_batch(list(texts_of(document.fields)))
    return f"{found.tokenizer.where}, {found.tokenizer.vocab_size:,} tokens"


def shards(config: Config, found: Found) -> str:
    """The token shards, where they are made: whole, by their sizes."""
    from corpus.shards import MANIFEST, read_manifest

    if config.data.tokens == "on_the_fly":
        return "not needed: documents are tokenised while training reads them"
    sources = mixture_sources(config)
    folders = list(sources.values()) or [shards_dir(config)]
    manifests = [path for folder in folders for path in sorted(folder.glob(f"*/{MANIFEST}"))]
    lacking = [name for name, folder in sources.items() if not any(path.is_relative_to(folder) for path in manifests)]
    if lacking:
        raise UserError(
            f"no shards of {', '.join(lacking)} (data.mixture); python tokenize_data.py with its own config"
        )
    if not manifests:
        raise Later(f"not made yet: python tokenize_data.py {found.arguments}")
    count = 0
    for path in manifests:
        for shard in read_manifest(path)["shards"]:
            file = path.parent / shard["file"]
            if not file.is_file() or file.stat().st_size != shard["size"]:
                raise UserError(
                    f"{shown(file)} is missing or not whole; python tokenize_data.py {found.arguments} --verify"
                )
            count += 1
    return f"{count:,} in {', '.join(map(shown, folders))}"


def model(config: Config, found: Found) -> str:
    """Pretrained weights: their config, their class, every file of theirs; light ones are loaded as training does."""
    name = config.model.pretrained
    if name is None:
        return "new weights"
    folder = place_of(name) or snapshot(config, name)
    files = [file for file in weights_of(folder) if opened(file)]
    n_bytes = sum(file.stat().st_size for file in files)
    if found.tokenizer is None or n_bytes > LIGHT:
        return f"{name}: the headers of {len(files)} files of weights are read"
    from evaluation.opening import special_ids
    from models.build import build_model

    settings = config.model.model_dump() | {"revision": revision_of(config, "model"), "compile": False}
    build_model(**settings, vocab_size=found.tokenizer.vocab_size, special_ids=special_ids(found.tokenizer))
    return f"{name} is loaded from {len(files)} files of weights"


def snapshot(config: Config, name: str) -> Path:
    """The folder of a Hub's model in the cache; its config and class are resolved as training does."""
    from huggingface_hub import hf_hub_download

    from models.hf_loading import class_for, is_remote, pretrained_config, silence
    from utils.imports import import_object

    if config.model.huggingface is None:
        raise UserError(f"no directory {name}, and only model.huggingface takes names on the Hub")
    way, revision = config.model.huggingface, revision_of(config, "model")
    source = {"revision": revision, "trust_remote_code": config.model.trust_remote_code}
    kind = import_object(way if "." in way else f"transformers.{way}", "model.huggingface")
    with silence():
        settings = pretrained_config(kind, name, config.model.arguments, source)
        if not is_remote(settings, kind):
            class_for(kind, settings)
    return Path(hf_hub_download(name, "config.json", revision=revision)).parent


def weights_of(folder: Path) -> list[Path]:
    """The files of a model's weights, by their index where they are several. Raises UserError where one is missing."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            files = [folder / one for one in sorted(set(read_json(index)["weight_map"].values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise UserError(f"{shown(folder)} has no {', '.join(missing[:3])}")
            return files
    raise UserError(f"{shown(folder)} holds no weights that can be read (model.safetensors or pytorch_model.bin)")


def opened(file: Path) -> bool:
    """Whether a file of weights is whole, by its header."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                return bool(tensors.keys())
        return bool(torch.load(file, map_location="meta", weights_only=True, mmap=True))
    except (SafetensorError, RuntimeError, OSError) as problem:
        raise UserError(
            f"{shown(file)} is damaged: {str(problem).splitlines()[0]}; remove it and fetch again"
        ) from problem


def loggers(config: Config, _: Found) -> str:
    """Weights & Biases waits for its server unless it is told not to."""
    if config.logging.wandb is None:
        return "none needs a network"
    mode = config.logging.wandb.get("mode") or os.environ.get("WANDB_MODE", "online")
    if mode == "online":
        raise UserError("logging.wandb is online; set logging.wandb: {mode: offline}, and run `wandb sync` afterwards")
    return f"wandb is {mode}"


def metrics(config: Config, _: Found) -> str:
    """Every metric of generated text is made, and scores a word."""
    from evaluation.metrics import load_metrics

    made = load_metrics(config.inference.metrics)
    for metric in made:
        metric.score(["a word"], ["a word"])
    return ", ".join(metric.name for metric in made) or "none"


CHECKS: dict[str, Callable[[Config, Found], str]] = {
    "record": fetched,
    "raw text": raw_text,
    "tokenizer": tokenizer,
    "token shards": shards,
    "model": model,
    "loggers": loggers,
    "metrics": metrics,
}


# -- the network --


def cut_off() -> str:
    """Takes this process, and all that it starts, off the network. -> how

    By a network namespace of its own where the system lets it; else Python's own sockets refuse whatever is not local.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "DISABLE_SAFETENSORS_CONVERSION": "1"}
    user, group = os.getuid(), os.getgid()
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is not None and unshare(CLONE_NEWNET) == 0:
        return "off, by a namespace of its own"
    if unshare is not None and unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
        return "off, by a namespace of its own"
    sys.addaudithook(refuse)
    return "off, as far as Python's sockets go (this system grants no namespaces)"


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: no connection but to a socket file, no question to a name server."""
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "localhost", socket.gethostname()):
        raise ConnectionError(f"the network is off, and something asks for {arguments[0]}")
    if event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        raise ConnectionError(f"the network is off, and something wants {arguments[1]}")


if __name__ == "__main__":
    OFF = cut_off()
    run_stage(main, __doc__)
