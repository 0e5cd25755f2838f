"""A folder of shards -> what is wrong with it, file by file."""

from pathlib import Path

from corpus.parts import part_file
from corpus.shards import MANIFEST, SETTINGS, read_manifest
from utils.files import read_json, shown
from utils.hashing import sha256_file, sha256_json


def verify(folder: Path) -> list[str]:
    """Checks a split's folder: every checksum, nothing missing, nothing foreign. -> what is wrong, a line each"""
    if not (folder / MANIFEST).exists():
        return [f"{shown(folder / MANIFEST)}: missing"]
    manifest = read_manifest(folder / MANIFEST)
    wrong = []
    known = {MANIFEST, SETTINGS, *(part_file(folder, part).name for part in range(len(manifest["units"])))}
    if not (folder / SETTINGS).exists():
        wrong.append(f"{shown(folder / SETTINGS)}: missing")
    elif sha256_json(read_json(folder / SETTINGS)) != manifest["settings"]:
        wrong.append(f"{shown(folder / SETTINGS)}: not the settings of the manifest")
    for entry in manifest["shards"]:
        path = folder / entry["file"]
        known.add(entry["file"])
        if not path.exists():
            wrong.append(f"{shown(path)}: missing")
        elif sha256_file(path) != entry["sha256"]:
            wrong.append(f"{shown(path)}: wrong, not the bytes of its checksum")
    for path in sorted(folder.iterdir()):
        # Indices of windows are made by training, beside the shards that they are of.
        shard = path.name.partition(".windows-")[0] + ".safetensors"
        if path.name not in known and shard not in known:
            wrong.append(f"{shown(path)}: foreign, not in the manifest")
    return wrong
