"""Parts of a split -> a part file each, and the manifest that joins them; and what is found of them after a kill.

A part is finished when its file, `part-PPPPP.json`, is there; a split when its manifest is. Both say with what settings
they were made, so that what another config has left is never taken for one's own.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.schema import Config
from corpus.documents import EMPTY, BadDocuments, nothing
from corpus.inputs import Source
from corpus.raw import differences
from corpus.shard_writer import ShardWriter
from corpus.shards import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    SETTINGS,
    ShardRecord,
    dtype_for,
    finished_shard,
    is_whole,
    read_about,
    read_manifest,
    sealed,
    shard_name,
    totals,
)  # fmt: skip
from tokenizer.tokenizer import Tokenizer
from utils.files import make_folder, read_json, shown, write_json
from utils.hashing import sha256_file, sha256_json
from utils.messages import UserError


def about(settings: dict[str, Any]) -> dict[str, Any]:
    """What part files and the headers of shards say of how they were made."""
    return {"format": FORMAT, "settings": sha256_json(settings)}


def part_units(source: Source, part: int, parts: int) -> range:
    """The units of one part: a run of neighbours, about as many bytes as the others have."""
    if parts == 1:
        return range(source.units)
    total = source.bytes_before(source.units)

    def part_of(unit: int) -> int:
        middle = source.bytes_before(unit) + source.bytes_before(unit + 1)  # twice that
        return middle * parts // (2 * total)

    units = range(source.units)
    return range(bisect_left(units, part, key=part_of), bisect_right(units, part, key=part_of))


def part_file(folder: Path, part: int) -> Path:
    """Says that a part is finished, and what it holds."""
    return folder / f"part-{part:05d}.json"


def begin(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Makes the folder and notes what it is for. -> the manifest where all is there already

    Raises UserError where the folder was made with other settings, or holds shards of nobody knows what."""
    noted = folder / SETTINGS
    is_begun = (folder / MANIFEST).exists() or any(folder.glob("part-*"))
    if noted.exists() and is_begun:  # without a shard the note binds nobody: the first document may have been bad
        differing = differences(read_json(noted), settings)
        if differing:
            raise UserError(
                f"{shown(folder)} was made with other settings ({'; '.join(differing)}); choose another tokenize.path, "
                "or make it again with --restart, which moves the old one aside"
            )
        if (folder / MANIFEST).exists():
            return read_manifest(folder / MANIFEST)
        return None
    if is_begun:
        raise UserError(
            f"{shown(folder)} holds shards but no {SETTINGS} that says how they were made; choose another "
            "tokenize.path, or make it again with --restart, which moves the old one aside"
        )
    make_folder(folder)
    write_json(noted, settings)
    return None


def shards_there(folder: Path, part: int, settings: dict[str, Any]) -> list[ShardRecord]:
    """Shards of a part that an earlier run has left. Raises UserError where one is not of these settings."""
    expected = about(settings)
    records: list[ShardRecord] = []
    while (path := folder / shard_name(part, len(records))).exists():
        said = read_about(path)
        if {key: said.get(key) for key in expected} != expected:
            raise UserError(f"{shown(path)} was made with other settings; make the shards again with --restart")
        records.append(finished_shard(path, sha256_file(path)))
    return records


def write_part(folder: Path, part: int, settings: dict[str, Any], writer: ShardWriter, units: range, read: str) -> None:
    """Says that a part is finished. units: that were read for it; read: their hash."""
    skipped: Counter[str] = Counter()
    for counts in (*(record.skipped for record in writer.records), writer.left_over()):
        skipped.update(counts)
    said = {
        **about(settings), "format_version": FORMAT_VERSION, "part": part,
        "units": [units.start, units.stop], "input": read, "skipped": dict(sorted(skipped.items())),
        "shards": [asdict(record) for record in writer.records],
    }  # fmt: skip
    write_json(part_file(folder, part), sealed(said))


def finished_part(folder: Path, part: int, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a part's file says; None where there is none. Raises UserError where it is not of these settings."""
    path = part_file(folder, part)
    if not path.exists():
        return None
    said = read_json(path)
    if not is_whole(said):
        raise UserError(
            f"{shown(path)} is damaged: it does not say what was written; remove it, and make part {part} again"
        )
    expected = about(settings)
    if {key: said.get(key) for key in expected} != expected or said.get("part") != part:
        raise UserError(f"{shown(path)} was made with other settings; make part {part} again, or all with --restart")
    return said


def join(
    folder: Path, split: str, settings: dict[str, Any], config: Config, tokenizer: Tokenizer, source: Source,
    bad: BadDocuments | None = None, check_bytes: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Checks all parts of a split and writes its manifest.

    bad: where bad documents stand, as far as that is known. check_bytes: the shards' checksums too.

    Raises UserError that names the part that is missing or not whole, or that was made before the input changed."""
    found = []
    is_newer = source.changed_since((folder / SETTINGS).stat().st_mtime)  # than what was made first
    for part in range(config.tokenize.parts):
        said = finished_part(folder, part, settings)
        if said is None:
            raise UserError(f"part {part} of {shown(folder)} is missing; {_make_again(part, config)}")
        for shard in said["shards"]:
            problem = _problem(folder / shard["file"], shard, check_bytes)
            if problem:
                raise UserError(
                    f"part {part} of {shown(folder)} is not whole: {shard['file']} {problem}; remove "
                    f"{part_file(folder, part).name} and that file, and {_make_again(part, config)}"
                )
        if is_newer and chained("", map(source.digest, range(*said["units"]))) != said["input"]:
            raise UserError(
                f"part {part} of {shown(folder)} was made from another input than there is now (its hash differs); "
                f"move {shown(folder)} aside, and make all parts again"
            )
        found.append(said)
    skipped: Counter[str] = Counter()
    for said in found:
        skipped.update(said["skipped"])
    empty = skipped.pop(EMPTY, 0)
    shards = [shard for said in found for shard in said["shards"]]
    manifest = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "split": split, "kind": config.dataset.kind,
        "dtype": dtype_for(tokenizer.vocab_size).name, "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "input": _input([said["input"] for said in found], settings["dataset"]),
        "units": [said["units"] for said in found], "dataset": settings["dataset"],
        "settings": sha256_json(settings), **totals([ShardRecord(**shard) for shard in shards]),
        "skipped": dict(sorted(skipped.items())), "empty": empty, "shards": shards,
    }  # fmt: skip
    if not manifest["documents"]:
        raise UserError(nothing(config, split, sum(skipped.values()), empty, bad))
    write_json(folder / MANIFEST, sealed(manifest))
    return sealed(manifest)


def _make_again(part: int, config: Config) -> str:
    if config.tokenize.parts == 1:
        return "make it with: python tokenize_data.py CONFIG"
    return f"make it with: python tokenize_data.py CONFIG tokenize.parts={config.tokenize.parts} tokenize.part={part}"


def _problem(path: Path, shard: dict[str, Any], check_bytes: bool) -> str | None:
    if not path.exists():
        return "is missing"
    if path.stat().st_size != shard["size"]:
        return f"has {path.stat().st_size:,} bytes instead of {shard['size']:,}"
    if check_bytes and sha256_file(path) != shard["sha256"]:
        return "does not have the bytes of its checksum"
    return None


def chained(before: str, digests: Iterable[str]) -> str:
    """A hash of hashes in a row, which can be gone on with. before: of those before them, "" for none."""
    for digest in digests:
        before = hashlib.sha256(f"{before} {digest}".encode()).hexdigest()
    return before


def _input(parts: list[str], settings: dict[str, Any]) -> str:
    return sha256_json({"parts": parts, "settings": settings})


def unchanged(source: Source, folder: Path, manifest: dict[str, Any]) -> None:
    """Raises UserError where a finished folder was made from something else than the source holds now.

    Files that are older than the manifest, and as long as they were, are taken to be the same."""
    if not source.changed_since((folder / MANIFEST).stat().st_mtime):
        return
    chains = [chained("", map(source.digest, range(*units))) for units in manifest["units"]]
    if _input(chains, manifest["dataset"]) != manifest["input"]:
        raise UserError(
            f"{shown(folder)} was made from another input (the hash of the input differs); choose another "
            "tokenize.path, or make it again with --restart, which moves the old one aside"
        )
