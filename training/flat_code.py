"""A file of ours and all of our files that it imports -> the same code in one flat folder.

Hugging Face's loader of custom code follows relative imports within a single folder only. So `models/layers/rope.py`
becomes `layers_rope.py`, and `from models.layers.rope import rotate` becomes `from .layers_rope import rotate`; the
rest of each file stays as it is, comments too. Nothing is imported or run here: files are read and parsed.
"""

import ast
import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path

from utils.messages import UserError

# How the loader finds the files that a file needs (it reads text, not Python).
SEEN_BY_LOADER = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)


@dataclass
class FlatCode:
    """Files for one folder, and what has to be installed for them."""

    files: dict[str, str] = field(default_factory=dict)  # name in the folder -> source
    packages: set[str] = field(default_factory=set)  # names of distributions, torch among them


@dataclass(frozen=True)
class Module:
    """One of our files, by the name it is imported under."""

    name: str  # models.layers.rope
    path: Path
    is_package: bool

    @property
    def package(self) -> str:
        """What `.` means in this file."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


def flatten(name: str, roots: list[Path], *, source: str | None = None) -> FlatCode:
    """Collects a module and every file of ours that it imports, directly or not.

    name: of the module that is loaded first, such as `models.mine`; in the folder it keeps the last part. roots: the
    folders that imports start from (the repository); source: what to read in place of the module's file.
    Raises UserError, with file and line, for an import that cannot be written flat.
    """
    roots = [root.resolve() for root in roots]
    first = find_module(name, roots) or Module(name, roots[0].joinpath(*name.split(".")).with_suffix(".py"), False)
    flat_names = {first.name: name.rpartition(".")[2]}
    code = FlatCode()
    waiting = [first]
    while waiting:
        module = waiting.pop()
        text = source if module is first and source is not None else module.path.read_text(encoding="utf-8")
        rewriter = _Rewriter(module, roots, first.package, flat_names, code.packages)
        code.files[flat_names[module.name] + ".py"] = rewriter.rewrite(text)
        waiting += rewriter.found
    _name_the_unseen(code, flat_names[first.name] + ".py")
    return code


def find_module(name: str, roots: list[Path]) -> Module | None:
    """The file under one of the roots that `import name` would read; None where the name is not one of ours."""
    if not name or not all(part.isidentifier() for part in name.split(".")):
        return None
    for place in (root.joinpath(*name.split(".")) for root in roots):
        if (place / "__init__.py").is_file():
            return Module(name, place / "__init__.py", is_package=True)
        if place.with_suffix(".py").is_file():
            return Module(name, place.with_suffix(".py"), is_package=False)
    return None


class _Rewriter:
    """Rewrites the imports of one file. `found` collects the files of ours that it names for the first time."""

    def __init__(
        self, module: Module, roots: list[Path], home: str, flat_names: dict[str, str], packages: set[str]
    ) -> None:
        self.module, self.roots, self.home = module, roots, home
        self.flat_names, self.packages = flat_names, packages
        self.found: list[Module] = []

    def rewrite(self, text: str) -> str:
        """The text of a module with its imports made flat. Raises UserError where it is not Python."""
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            raise UserError(f"{self.module.path}:{error.lineno}: not valid Python: {error.msg}") from None
        lines = text.encode().splitlines(keepends=True)  # ast counts columns in bytes
        statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in sorted(statements, key=lambda node: (node.lineno, node.col_offset), reverse=True):
            parts = self.of_import(node) if isinstance(node, ast.Import) else self.of_import_from(node)
            if parts is None:
                continue
            first, last = node.lineno - 1, node.end_lineno - 1
            before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
            glue = b"\n" + before if not before.strip() else b"; "
            lines[first : last + 1] = [before + glue.join(part.encode() for part in parts) + after]
        return b"".join(lines).decode()

    def of_import(self, node: ast.Import) -> list[str] | None:
        """`import a.b as c` -> what stands in its place; None: stays as it is."""
        parts, changed = [], False
        for alias in node.names:
            ours = find_module(alias.name, self.roots)
            if ours is None:
                self.note_package(alias.name)
                parts.append("import " + _with_alias(alias.name, alias.asname))
                continue
            if alias.asname is None and "." in alias.name:
                package, _, last = alias.name.rpartition(".")
                raise UserError(
                    f"{self.module.path}:{node.lineno}: `import {alias.name}` cannot be exported; "
                    f"write `from {package} import {last}`"
                )
            changed = True
            parts.append(f"from . import {self.flat_name(ours)} as {alias.asname or alias.name}")
        return parts if changed else None

    def of_import_from(self, node: ast.ImportFrom) -> list[str] | None:
        """`from a.b import c` -> what stands in its place; None: stays as it is."""
        source = self.absolute(node)
        ours = find_module(source, self.roots)
        below = [find_module(f"{source}.{alias.name}", self.roots) for alias in node.names]
        if ours is None and not any(below):
            if node.level:
                raise UserError(f"{self.module.path}:{node.lineno}: no {source.replace('.', '/')}.py to export with it")
            self.note_package(source)
            return None
        parts, names = [], []
        for alias, module in zip(node.names, below, strict=True):
            if module is not None:
                parts.append(f"from . import {self.flat_name(module)} as {alias.asname or alias.name}")
            else:
                names.append(_with_alias(alias.name, alias.asname))
        if names and ours is None:
            raise UserError(f"{self.module.path}:{node.lineno}: no {', '.join(names)} in {source.replace('.', '/')}")
        if names:
            parts.insert(0, f"from .{self.flat_name(ours)} import {', '.join(names)}")
        return parts

    def absolute(self, node: ast.ImportFrom) -> str:
        """The dotted name that an import starts from, its leading dots resolved."""
        if not node.level:
            return node.module or ""
        base = self.module.package.split(".") if self.module.package else []
        if node.level > len(base):
            dots, name = "." * node.level, node.module or ""
            raise UserError(
                f"{self.module.path}:{node.lineno}: `from {dots}{name} import …` leads out of the repository; in a "
                f"file copied from transformers write `from transformers{'.' if name else ''}{name} import …`"
            )
        base = base[: len(base) - node.level + 1]
        return ".".join([*base, *(node.module.split(".") if node.module else [])])

    def flat_name(self, module: Module) -> str:
        """`models.layers.rope` -> `layers_rope`; a name that is taken gets a number."""
        if module.name not in self.flat_names:
            own = module.name.removeprefix(self.home + ".") if self.home else module.name
            name = own.replace(".", "_") + ("_init" if module.is_package else "")
            taken, tries = set(self.flat_names.values()), 2
            while name in taken:
                name, tries = f"{own.replace('.', '_')}_{tries}", tries + 1
            self.flat_names[module.name] = name
            self.found.append(module)
        return self.flat_names[module.name]

    def note_package(self, name: str) -> None:
        """Notes what has to be installed for an import."""
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names:
            self.packages.update(packages_distributions().get(top, [top])[:1])


def _with_alias(name: str, alias: str | None) -> str:
    return f"{name} as {alias}" if alias else name


def _name_the_unseen(code: FlatCode, entry: str) -> None:
    """The loader copies only files that it sees named in `from .x import`; names the others at the entry's end."""
    seen = {name for text in code.files.values() for name in SEEN_BY_LOADER.findall(text)}
    unseen = sorted(name for name in code.files if name != entry and name.removesuffix(".py") not in seen)
    if unseen:
        lines = [f"from .{name.removesuffix('.py')} import __name__ as _  # noqa" for name in unseen]
        note = "\n# transformers copies the files that it finds named so; these are imported as modules elsewhere.\n"
        code.files[entry] = code.files[entry].rstrip("\n") + "\n" + note + "\n".join(lines) + "\n"
