"""Config -> what `data_setup.fetch` has recorded of what it names on the Hub: every stage uses the same commits."""

from pathlib import Path
from typing import Any, Literal

from configs.places import REPOSITORY, data_dir
from configs.schema import Config
from utils.files import read_json

What = Literal["dataset", "tokenizer", "retrain", "model"]


def record_path(config: Config) -> Path:
    """The record lies with what is made from the dataset, and serves every config that reads it."""
    return data_dir(config) / "fetched.json"


def asked(config: Config, what: What) -> tuple[str | None, str | None]:
    """-> the name that the config gives (or a path), and the commit, tag or branch that it asks for."""
    tokenizer = config.tokenizer
    return {
        "dataset": (config.dataset.name if config.dataset.source == "hub" else None, config.dataset.revision),
        "tokenizer": (tokenizer.path, tokenizer.revision),
        "retrain": (tokenizer.retrain, tokenizer.revision),
        "model": (config.model.pretrained, config.model.revision),
    }[what]


def recorded(config: Config, what: What) -> dict[str, Any] | None:
    """What was fetched: {"what", "name", "asked", "commit", "files": {name: {"bytes", "sha256"}}}; None where nothing
    was, or something else than the config asks for."""
    path = record_path(config)
    if asked(config, what)[0] is None or not path.is_file():
        return None
    return next((entry for entry in read_json(path)["fetched"] if key_of(entry) == (what, *asked(config, what))), None)


def key_of(entry: dict[str, Any]) -> tuple[str, str, str | None]:
    """What makes it this entry: a later fetch of the same replaces it."""
    return entry["what"], entry["name"], entry["asked"]


def revision_of(config: Config, what: What) -> str | None:
    """The recorded commit, where the config's name was fetched; else what the config asks for."""
    entry = recorded(config, what)
    return (entry or {}).get("commit") or asked(config, what)[1]


def place_of(name: str) -> Path | None:
    """Where it lies on this machine; None for a name on the Hub."""
    path = REPOSITORY / name
    return path if path.exists() else None
