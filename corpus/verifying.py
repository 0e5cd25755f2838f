"""A folder of shards -> what is wrong with it, file by file: every bit of every file has a checksum somewhere.

manifest.json, part-PPPPP.json   their own, of all that they say          settings.json   in the manifest
shards                           in the manifest                          window indices  in their header
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus.packing import read_index
from corpus.parts import part_file
from corpus.shards import MANIFEST, SETTINGS, is_whole, read_manifest
from utils.files import read_json, shown
from utils.hashing import sha256_file, sha256_json
from utils.messages import UserError

INDEX = re.compile(r"(part-\d{5}-shard-\d{5})\.windows-[0-9a-f]{12}\.safetensors")
UNFINISHED = re.compile(r"\..+-\d+\.(tmp|old)")  # what a killed process was writing; utils/files.py clears it away


def verify(folder: Path) -> list[str]:
    """Checks a split's folder: every checksum, nothing missing, nothing foreign. -> what is wrong, a line each"""
    return [f"{shown(path)}: {problem}" for path, problem in _problems(folder)]


def _problems(folder: Path) -> Iterator[tuple[Path, str]]:
    if not folder.is_dir():
        yield folder, "missing"
        return
    manifest, problem = _record(folder / MANIFEST)
    if problem is None:
        try:
            read_manifest(folder / MANIFEST)
        except UserError as error:
            problem = str(error)
    if problem is not None:
        yield folder / MANIFEST, problem
    known = {MANIFEST, SETTINGS}
    # Where the manifest is not to be trusted the parts still say what there should be.
    there = [int(path.stem.removeprefix("part-")) for path in folder.glob("part-[0-9][0-9][0-9][0-9][0-9].json")]
    parts = len(manifest.get("units", [])) if problem is None else max(there, default=-1) + 1
    shards = list(manifest["shards"]) if problem is None else []
    settings = manifest["settings"] if problem is None else None
    for part in range(parts):
        path = part_file(folder, part)
        known.add(path.name)
        said, wrong = _record(path)
        if wrong is None and problem is None:
            own = [entry for entry in shards if entry["part"] == part]
            if said["shards"] != own or said["settings"] != settings:
                wrong = "wrong, not the part that the manifest has joined"
        if wrong is not None:
            yield path, wrong
        elif problem is not None:
            shards += said["shards"]
            settings = said["settings"]
    yield from _settings(folder / SETTINGS, settings)
    for entry in shards:
        path = folder / entry["file"]
        known.add(entry["file"])
        if not path.exists():
            yield path, "missing"
        elif sha256_file(path) != entry["sha256"]:
            yield path, "wrong, not the bytes of its checksum"
    for path in sorted(folder.iterdir()):
        if path.name in known or UNFINISHED.fullmatch(path.name):
            continue
        # Indices of windows are made by training, beside the shards that they are of.
        index = INDEX.fullmatch(path.name)
        if not index or (f"{index[1]}.safetensors" not in known):
            yield path, "foreign, not in the manifest"
        elif read_index(path) is None:
            yield path, "damaged; remove it: it is made again when it is needed"


def _settings(path: Path, expected: str | None) -> Iterator[tuple[Path, str]]:
    if not path.exists():
        yield path, "missing"
        return
    try:
        is_right = expected in (None, sha256_json(read_json(path))) and _as_written(path)
    except UserError:
        is_right = False
    if not is_right:
        yield path, "wrong, not the settings of the manifest"


def _record(path: Path) -> tuple[dict[str, Any], str | None]:
    """-> what a sealed file says, and what is wrong with it"""
    if not path.exists():
        return {}, "missing"
    try:
        said = read_json(path)
    except UserError:
        return {}, "damaged, not JSON"
    if not is_whole(said) or not _as_written(path):
        return {}, "damaged, it does not say what was written"
    return said, None


def _as_written(path: Path) -> bool:
    """Whether a JSON file is laid out as `write_json` does it, so that nothing can hide between what it says."""
    text = path.read_text(encoding="utf-8")
    return text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
