"""What an evaluation leaves behind: whether it is done already, and files that replace none of another.

    runs/<name>/inference/<what>/    runs/<name>/generation/<prompts file>/

Each folder holds results.json, which says what it was made from. Made from the same, it is not made again; made from
something else, the older one is moved aside to `<folder>.<date and time>`.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs.places import REPOSITORY
from utils.files import read_json
from utils.hashing import sha256_file, sha256_json
from utils.messages import UserError

RESULTS = "results.json"
# Whose change may change a result.
CODE = (
    "model.py",
    "dataset.py",
    "configs",
    "corpus",
    "evaluation",
    "models",
    "objectives",
    "tokenizer",
    "training",
    "utils",
)


def made_from(**facts: Any) -> str:
    """A hash of everything that a result depends on: these facts, and Liftoff's own code."""
    files = [path for room in CODE for path in python_files(REPOSITORY / room)]
    code = {str(path.relative_to(REPOSITORY)): sha256_file(path) for path in files}
    return sha256_json({"facts": facts, "code": code})


def python_files(path: Path) -> Iterable[Path]:
    """A file, or those below a folder."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def earlier(folder: Path, identity: str) -> dict[str, Any] | None:
    """The results in a folder, if they were made from the same."""
    try:
        results = read_json(folder / RESULTS)
    except UserError:
        return None
    return results if isinstance(results, dict) and results.get("made_from") == identity else None


def move_aside(folder: Path) -> None:
    """An older folder of this name gets its date and time behind it."""
    if folder.exists():
        when = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
        aside = folder.with_name(f"{folder.name}.{when}")
        number = 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"{folder.name}.{when}-{number}")
        os.rename(folder, aside)


def label(which: str) -> str:
    """best, last or a path -> a name for a folder."""
    path = Path(which)
    path = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path
    return "-".join(part for part in path.parts if part not in ("/", "..", "."))
