"""The names of code in a config and their arguments -> problems, found by reading the source, not by importing it.

Only our own files are read, so that a typo is answered before torch is loaded; what other libraries take is checked
after their import (utils/imports.py).
"""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from configs.contradictions import Problem
from configs.expectations import expected, shown, takes
from configs.places import REPOSITORY
from configs.schema import Config
from utils.imports import did_you_mean, unknown_argument
from utils.yaml_text import KeyPath, dotted

# What Liftoff itself passes to code that a config names; a config that does too would contradict it.
_GIVEN: dict[KeyPath, tuple[str, ...]] = {
    ("model", "backbone"): ("vocab_size",),
    ("objective", "name"): ("facts",),
    ("schedule", "name"): ("update", "history", "total", "warmup"),
    ("dataset", "source"): ("split",),
}
_SOURCES = ("hub", "files", "sample", "synthetic")
_METRICS = ("bleu", "chrf", "exact_match")
# Its key, the name, the arguments (None where Liftoff cannot tell them), the key that the arguments stand under.
Named = tuple[KeyPath, str, Mapping[str, Any] | None, KeyPath]
_SIMPLE = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass
class Source:
    """A class or function as its source shows it."""

    name: str
    file: Path
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | None  # None: an assignment or an import of another's


@dataclass
class Argument:
    """One that a class or function takes."""

    needed: bool
    annotation: str  # as written; "" where there is none
    default: Any  # None where it is not a plain value


class NotThere(Exception):
    """The text: what of a name does not exist."""


def check_code(config: Config) -> list[Problem]:
    """Problems of everything in the config that names code."""
    problems: list[Problem] = []
    for key, name, arguments, at in _named(config):
        try:
            source = find_source(name, key)
            if source is not None:
                problems += _arguments(source, key, arguments, at)
                problems += _positions(config, source, key)
        except NotThere as error:
            problems.append(((key,), f"{dotted(key)}: {error}"))
    return problems


def _named(config: Config) -> list[Named]:
    """Everything in the config that names code."""
    model = config.model
    found: list[Named] = []
    for way in ("backbone", "module", "huggingface"):
        name = getattr(model, way)
        if name:
            arguments = None if way == "huggingface" else model.arguments
            found.append((("model", way), name, arguments, ("model", "arguments")))
    found.append((("objective", "name"), config.objective.name, config.objective.arguments, ("objective",)))
    found.append((("optimizer", "name"), config.optimizer.name, None, ("optimizer",)))
    found.append((("schedule", "name"), config.schedule.name, config.schedule.arguments, ("schedule",)))
    if config.dataset.source not in _SOURCES:
        dataset = config.dataset
        found.append((("dataset", "source"), dataset.source, dataset.arguments, ("dataset", "arguments")))
    for index, entry in enumerate(config.trainer.callbacks):
        key: KeyPath = ("trainer", "callbacks", index)
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            found.append((key, entry["name"], {name: entry[name] for name in entry if name != "name"}, key))
        elif isinstance(entry, str):
            found.append((key, entry, {}, key))
    for index, entry in enumerate(config.inference.metrics):
        name = entry.get("name") if isinstance(entry, dict) else entry
        if isinstance(name, str) and name not in _METRICS:
            key = ("inference", "metrics", index)
            found.append((key, name, None, key))  # of a function some are the texts, of a class all are its own
    return found


def find_source(name: str, key: KeyPath) -> Source | None:
    """The source of what a name in the config means; None where it is another library's.

    Raises NotThere where it is ours and is not there, or there is no such package.
    """
    if "." not in name:
        return _in_its_room(name, key)
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise NotThere(f"'{name}' is no import path; one looks like torch.optim.AdamW")
    for end in range(len(parts) - 1, 0, -1):
        file = _file_of(parts[:end])
        if file is not None:
            return _in_file(file, parts[end], ".".join(parts[:end]))
    if not _is_ours(parts[0]):
        if importlib.util.find_spec(parts[0]) is None:
            rooms = [path.stem for path in REPOSITORY.iterdir() if path.is_dir() or path.suffix == ".py"]
            raise NotThere(f"no package '{parts[0]}'{did_you_mean(parts[0], rooms)}")
        return None
    folder = REPOSITORY
    for part in parts[:-1]:
        if not (folder / part).is_dir():
            names = [path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"]
            above = ".".join(folder.relative_to(REPOSITORY).parts)
            raise NotThere(f"{above or 'Liftoff'} has no '{part}'{did_you_mean(part, names)}")
        folder = folder / part
    raise NotThere(f"'{name}' names a folder; name a class in one of its files")


def _in_its_room(name: str, key: KeyPath) -> Source | None:
    if key == ("objective", "name"):
        file = REPOSITORY / "objectives" / f"{name}.py"
        names = [
            path.stem for path in (REPOSITORY / "objectives").glob("*.py") if path.stem not in ("__init__", "facts")
        ]
        if name not in names:
            raise NotThere(
                f"there is no objectives/{name}.py"
                + (did_you_mean(name, names) or f"; there are {', '.join(sorted(names))}")
            )
        return _in_file(file, "".join(part.capitalize() for part in name.split("_")), f"objectives.{name}")
    if key == ("schedule", "name"):
        return _in_file(REPOSITORY / "optim" / "schedules.py", name, "optim.schedules")
    if key == ("model", "huggingface"):
        known = ["AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM"]
        near = get_close_matches(name.lower(), [one.lower() for one in known], n=1, cutoff=0.85)
        if near and name not in known and name.startswith("AutoModel"):
            raise NotThere(f"transformers has no '{name}'{did_you_mean(name, known)}")
        return None
    if key == ("dataset", "source"):
        raise NotThere(f"{' | '.join(_SOURCES)} or an import path, got '{name}'{did_you_mean(name, _SOURCES)}")
    if key[:2] == ("inference", "metrics"):
        raise NotThere(f"{' | '.join(_METRICS)} or an import path, got '{name}'{did_you_mean(name, _METRICS)}")
    raise NotThere(f"'{name}' is no import path{_somewhere(name, key)}")


def _somewhere(name: str, key: KeyPath) -> str:
    """A hint for a class without its module: where one of that name is."""
    if key[0] == "optimizer":
        torch_names = (
            "Adadelta Adafactor Adagrad Adam Adamax AdamW ASGD LBFGS Muon NAdam RAdam RMSprop Rprop SGD".split()
        )
        near = get_close_matches(name.lower(), [one.lower() for one in torch_names], n=1, cutoff=0.6)
        found = [f"torch.optim.{one}" for one in torch_names if near and one.lower() == near[0]]
    else:
        files = sorted((REPOSITORY / "models").glob("*.py")) if key[0] == "model" else []
        found = [f"models.{path.stem}.{name}" for path in files if isinstance(_names(path).get(name), ast.ClassDef)]
        if not found and key[0] == "model":
            found = [f"models.{path.stem}.{_class_like(path, name)}" for path in files if _class_like(path, name)]
    return f"; did you mean '{found[0]}'?" if found else "; one looks like torch.optim.AdamW"


def _class_like(path: Path, name: str) -> str | None:
    classes = [one for one, node in _names(path).items() if isinstance(node, ast.ClassDef)]
    return next((one for one in classes if one.lower() == name.lower() or path.stem == name), None)


def _is_ours(name: str) -> bool:
    folder = REPOSITORY / name
    return (folder.is_dir() and any(folder.glob("**/*.py"))) or folder.with_suffix(".py").is_file()


def _file_of(parts: list[str]) -> Path | None:
    path = REPOSITORY.joinpath(*parts)
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    package = path / "__init__.py"
    return package if package.is_file() and package.stat().st_size else None


@cache
def _names(file: Path) -> dict[str, ast.AST]:
    """What a file defines or imports at its top level, also under `if` and `try`."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise NotThere(f"{file.relative_to(REPOSITORY)}:{error.lineno}: not Python: {error.msg}") from None
    names: dict[str, ast.AST] = {}

    def read(statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                names[statement.name] = statement
            elif isinstance(statement, (ast.Import, ast.ImportFrom)):
                names.update({alias.asname or alias.name.split(".")[0]: statement for alias in statement.names})
            elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                names.update({target.id: statement for target in targets if isinstance(target, ast.Name)})
            else:
                for part in ("body", "orelse", "finalbody"):
                    read([inner for inner in getattr(statement, part, []) if isinstance(inner, ast.stmt)])
                for handler in getattr(statement, "handlers", []):
                    read(handler.body)

    read(tree.body)
    return names


def _in_file(file: Path, name: str, module: str) -> Source | None:
    names = _names(file)
    if "*" in names or "__getattr__" in names:  # names that only an import would show
        return None if name not in names else Source(name, file, None)
    if name not in names:
        classes = [one for one, node in names.items() if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
        raise NotThere(
            f"{module} has no '{name}'{did_you_mean(name, classes) or '; it has ' + ', '.join(_public(classes))}"
        )
    node = names[name]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        inner = _file_of(node.module.split("."))
        return _in_file(inner, original, node.module) if inner else Source(name, file, None)
    return Source(name, file, node if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) else None)


def _public(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("_")) or ["no classes or functions"]


def arguments_of(source: Source) -> dict[str, Argument] | None:
    """The arguments of a function, or of a class's __init__, its own or its base's; None where they cannot be known."""
    node = source.node
    if isinstance(node, ast.ClassDef):
        inits = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        if not inits:
            return _of_bases(source, node)
        return _of_function(inits[0], skip=1)
    return _of_function(node) if node is not None else None


def _of_bases(source: Source, node: ast.ClassDef) -> dict[str, Argument] | None:
    """A class without an __init__ takes what its first base takes; a dataclass or a library's class is not read."""
    if node.decorator_list or not node.bases or ast.unparse(node.bases[0]) in ("object", "Protocol"):
        return None if node.decorator_list else {}
    base = ast.unparse(node.bases[0])
    try:
        above = _in_file(source.file, base, source.file.stem) if "." not in base else None
    except NotThere:
        return None
    if above is None and base in ("nn.Module", "torch.nn.Module"):
        return {}
    return arguments_of(above) if above and above.node is not node else None


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, skip: int = 0) -> dict[str, Argument] | None:
    if node.args.kwarg or any(isinstance(item, ast.Name) and item.id == "classmethod" for item in node.decorator_list):
        return None
    places = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(places) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = list(zip(places, defaults, strict=True))[skip:] + list(
        zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    )
    found = {}
    for argument, default in pairs:
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        value = default.value if isinstance(default, ast.Constant) else None
        found[argument.arg] = Argument(default is None, annotation, value)
    return found


def _arguments(source: Source, key: KeyPath, arguments: Mapping[str, Any] | None, at: KeyPath) -> list[Problem]:
    takes_ = arguments_of(source) if arguments is not None else None
    if takes_ is None or arguments is None:
        return []
    given = list(_GIVEN.get(key, ()))
    if key == ("dataset", "source"):  # the split comes first, whatever it is called
        given = list(takes_)[:1]
    if key == ("model", "module"):
        given = ["vocab_size"] if "vocab_size" in takes_ else []
    free = [name for name in takes_ if name not in given]
    problems: list[Problem] = []
    for name, value in arguments.items():
        place = (*at, name)
        if name in given and name != "vocab_size":
            problems.append(((place,), f"{source.name} gets '{name}' from Liftoff itself; leave it out"))
        elif name not in takes_:
            problems.append(((place,), f"{dotted(at)}: {unknown_argument(source.name, name, free)}"))
        elif not _fits(takes_[name].annotation, value):
            words = " or ".join(expected(_SIMPLE.get(part, type(None))) for part in _members(takes_[name].annotation))
            problems.append(((place,), f"{dotted(place)} should be {words}, got {shown(value)}"))
    for name in free:
        if takes_[name].needed and name not in arguments:
            problems.append(((key,), f"{dotted(key)}: {source.name} needs '{name}'; set {dotted((*at, name))}"))
    return problems


def _positions(config: Config, source: Source, key: KeyPath) -> list[Problem]:
    """A window longer than the positions that our own model has by default."""
    if key != ("model", "backbone"):
        return []
    default = (arguments_of(source) or {}).get("max_seq_len")
    if default is None or "max_seq_len" in config.model.arguments or not isinstance(default.default, int):
        return []
    length = config.data.max_seq_len
    if length <= default.default:
        return []
    problem = f"data.max_seq_len={length} is longer than the {default.default} positions of {source.name}"
    return [((("data", "max_seq_len"), key), f"{problem}; set model.arguments.max_seq_len={length}")]


def _members(annotation: str) -> list[str]:
    return [part.strip() for part in annotation.strip("'\"").split("|")]


def _fits(annotation: str, value: Any) -> bool:
    """Whether a value can be what a simple annotation says: int, float, bool, str, or these or None."""
    parts = _members(annotation)
    if not all(part in _SIMPLE or part == "None" for part in parts):
        return True
    if value is None:
        return "None" in parts
    kinds = [_SIMPLE[part] for part in parts if part in _SIMPLE]
    if isinstance(value, bool):
        return bool in kinds
    return any(takes(kind, type(value)) for kind in kinds) or (isinstance(value, int) and float in kinds)
