"""The raw folder that the download stage makes -> its manifest, checked against the config that wants to read it."""

import itertools
import re
from typing import Any

from configs.places import raw_dir
from configs.schema import Config
from utils.files import read_json, shown
from utils.messages import UserError

RAW_FORMAT = 1  # of the raw folder and its manifest
DOWNLOAD = "python -m data_setup.download_dataset CONFIG"  # what makes it


def is_stored(config: Config) -> bool:
    """Whether the download stage puts raw text into the raw folder, up to the caps."""
    return config.dataset.source in ("hub", "sample") and not is_streamed(config)


def is_streamed(config: Config) -> bool:
    """Whether documents come from the Hub as they are read."""
    return config.dataset.source == "hub" and config.dataset.streamed


def raw_manifest(config: Config) -> dict[str, Any]:
    """What the folder holds. Raises UserError where there is none, or it was made with other settings."""
    folder = raw_dir(config)
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"no raw text in {shown(folder)}; make it with {DOWNLOAD}")
    manifest = read_json(path)
    differing = differences(manifest.get("settings", {}), raw_settings(config))
    if manifest.get("format_version") != RAW_FORMAT:
        differing = [f"format {manifest.get('format_version')} instead of {RAW_FORMAT}"]
    if differing:
        raise UserError(
            f"the raw text in {shown(folder)} was made with other settings: {'; '.join(differing)}. Make it again with "
            f"{DOWNLOAD} --restart, or choose another place with dataset.raw_path"
        )
    return manifest


def raw_settings(config: Config) -> dict[str, Any]:
    """The settings that decide what lies in the raw folder: its manifest holds them, and they must still be these."""
    dataset = config.dataset
    settings: dict[str, Any] = {
        "source": dataset.source,
        "max_documents": dataset.max_documents,
        "max_bytes": dataset.max_bytes,
    }
    if dataset.source == "sample":
        settings["fractions"] = dict(dataset.fractions)
    if dataset.source == "hub":
        names = ("name", "subset", "revision", "splits", "fractions")
        settings |= {name: getattr(dataset, name) for name in names}
        if dataset.max_bytes is not None:  # the text is measured as it is read
            settings |= {"kind": dataset.kind, "fields": dataset.fields}
    return settings


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """["key: 1 there, 2 in the config", …] of two groups of settings; of hashes only their beginnings.

    Of a group within both only what differs: "group.key: …"."""

    def said(value: Any) -> str:
        is_hash = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
        return f"{value[:12]}…" if is_hash else repr(value)

    found = []
    for key in itertools.chain(old, (key for key in new if key not in old)):
        there, here = old.get(key), new.get(key)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            found += [f"{key}.{one}" for one in differences(there, here)]
        else:
            found.append(f"{key}: {said(there)} there, {said(here)} in the config")
    return found
