"""The standard library of the running Python -> a corpus of source code, without any network.

Every module is cut into documents at its top-level functions and classes. A module's split depends on a hash of its
name, so the corpus is the same whenever the same Python makes it. Modules are under Python's own licence (PSF).
"""

import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from configs.schema import Config
from corpus.documents import dataset_full
from corpus.splitting import CUT, share
from data_setup.raw_text import RawFolder, json_line
from utils.hashing import sha256_bytes
from utils.messages import UserError, progress

# Not text that anyone wrote (tables of encodings, docs as one dictionary), tests, what is not the library's own.
LEFT_OUT = {
    "site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings", "pydoc_data",
    "sitecustomize.py", "usercustomize.py",
}  # fmt: skip
LICENCE = "Python Software Foundation License, https://docs.python.org/3/license.html"
# A piece shorter than this (characters) goes together with the next.
SHORTEST = 800


def make(config: Config, folder: RawFolder) -> None:
    """Fill the raw folder, up to the caps of the config."""
    root = Path(sysconfig.get_paths()["stdlib"])
    modules = find_modules(root)
    if not modules:
        raise UserError(
            f"no source of Python's standard library in {root}; use another Python, or dataset.source: files"
        )
    lines: dict[str, list[bytes]] = {split: [] for split in CUT}
    sizes = dict.fromkeys(CUT, 0)
    full: set[str] = set()
    with progress("sample corpus", len(modules), "modules") as meter:
        for name in modules:
            split = split_of(config, name)
            for text in documents_of((root / name).read_bytes()):
                size = len(text.encode())
                if split in full or dataset_full(config, len(lines[split]) + 1, sizes[split] + size):
                    full.add(split)
                    break
                lines[split].append(json_line({"text": text, "module": name}))
                sizes[split] += size
            meter.advance()
    folder.notes.update(licence=LICENCE, python=sys.version.split()[0], modules=len(modules))
    folder.add_round("modules", len(modules), lines, sizes, full)
    folder.finish()


def find_modules(root: Path) -> list[str]:
    """Names, relative to the library, of the modules that are taken: sorted, each UTF-8 and valid Python."""
    names = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        # _sysconfigdata holds the paths of the machine on which Python was built.
        if not LEFT_OUT & set(parts) and not path.name.startswith("_sysconfigdata") and path.is_file():
            names.append("/".join(parts))
    return names


def split_of(config: Config, name: str) -> str:
    """A module's split, by the hash of its name and the config's fractions."""
    place = int(sha256_bytes(f"liftoff sample {name}".encode())[:12], 16) / 16**12
    for split in CUT:
        low, high = share(config.dataset, split, CUT)
        if low <= place < high:
            return split
    return "train"


def documents_of(source: bytes) -> Iterator[str]:
    """A module's documents; none where it is not UTF-8 or not valid Python."""
    try:
        text = source.decode("utf-8-sig").replace("\r\n", "\n")
        with warnings.catch_warnings(action="ignore"):  # of old ways of writing
            tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return
    lines = [line + "\n" for line in text.split("\n")]
    cuts = [_first_line(node, lines) for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    piece = ""
    for start, end in zip([0, *cuts], [*cuts, len(lines)], strict=True):
        piece += "".join(lines[start:end])
        if len(piece) >= SHORTEST:
            yield piece.strip("\n") + "\n"
            piece = ""
    if piece.strip():
        yield piece.strip("\n") + "\n"


def _first_line(node: ast.FunctionDef | ast.ClassDef, lines: list[str]) -> int:
    """The line, from 0, at which a definition begins, with its decorators and the comment right above it."""
    line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    while line > 0 and lines[line - 1].startswith("#"):
        line -= 1
    return line
