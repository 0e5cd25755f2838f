"""Every source file -> its imports, held against the plan of the house (docs/architecture.md)."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room may import from its own layer and from those after it.
LAYERS = [
    {"train", "inference", "generation", "tokenize_data", "data_setup", "tools"},
    {"model", "dataset"},
    {"training", "evaluation"},
    {"models", "objectives", "optim", "corpus", "tokenizer"},
    {"configs"},
    {"utils"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
NOT_THE_HOUSE = {"tests", "docs", "benchmarks", "runs", "data", ".venv", ".git"}
FILES = sorted(
    path
    for path in ROOT.glob("**/*.py")
    if path.relative_to(ROOT).parts[0] not in NOT_THE_HOUSE and "user_configs" not in path.parts
)
DOORS = [path for path in FILES if 'if __name__ == "__main__":' in path.read_text()]
HEAVY = {"torch", "transformers", "pytorch_lightning", "datasets", "numpy", "matplotlib", "tokenizers", "sentencepiece"}


def imports_of(node: ast.AST) -> Iterator[str]:
    """Dotted names that the import statements under `node` name."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0, "relative imports hide which room is meant"
            yield from (f"{part.module}.{alias.name}" for alias in part.names)


def at_the_top(path: Path) -> Iterator[str]:
    """The imports that happen when the file is imported."""
    for statement in ast.parse(path.read_text()).body:
        for_types = isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"  # never runs
        if not (for_types or isinstance(statement, (ast.FunctionDef, ast.ClassDef))):
            yield from imports_of(statement)


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def rooms_of(imported: Iterator[str]) -> set[str]:
    return {one.split(".")[0] for one in imported}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{name(path)} belongs to no room of the plan"
    imported = rooms_of(imports_of(ast.parse(path.read_text()))) & LEVEL.keys()
    upwards = {other for other in imported if LEVEL[other] < LEVEL[room]}
    assert not upwards, f"{name(path)} imports upwards: {sorted(upwards)}"


@pytest.mark.parametrize("path", DOORS, ids=name)
def test_scripts_do_not_import_scripts(path: Path) -> None:
    imported = set(imports_of(ast.parse(path.read_text())))
    doors = {".".join(door.relative_to(ROOT).with_suffix("").parts) for door in DOORS if door != path}
    found = {one for one in imported if one in doors or one.rpartition(".")[0] in doors or one.startswith("tools.")}
    assert not found


# Files of models/ that know more than torch and its file format: they build models from a config's names.
KNOW_MORE = {"build.py": {"utils", "transformers"}, "hf.py": {"utils", "transformers"}}


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) == "models"], ids=name)
def test_models_know_torch_alone(path: Path) -> None:
    allowed = {"models", "torch", "safetensors"} | set(sys.stdlib_module_names) | KNOW_MORE.get(path.name, set())
    if "transformers" in rooms_of(at_the_top(path)):  # a copied and edited file of Hugging Face's
        allowed.add("transformers")
    known = rooms_of(imports_of(ast.parse(path.read_text())))
    assert known <= allowed, f"{name(path)} knows more than torch: {sorted(known - allowed)}"


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) == "corpus"], ids=name)
def test_corpus_knows_no_models(path: Path) -> None:
    known = rooms_of(imports_of(ast.parse(path.read_text())))
    assert not known & {"models", "objectives", "optim", "transformers"}


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in {"configs", "utils"}], ids=name)
def test_a_typo_is_answered_before_anything_heavy_is_loaded(path: Path) -> None:
    assert not rooms_of(at_the_top(path)) & HEAVY


@pytest.mark.parametrize("path", [path for path in DOORS if room_of(path) != "training"], ids=name)
def test_scripts_import_heavy_things_after_the_config_is_read(path: Path) -> None:
    light = {"configs", "utils"} | set(sys.stdlib_module_names)
    early = rooms_of(at_the_top(path)) - light
    assert not early, f"{name(path)} imports {sorted(early)} before it has read its config"


def test_modules_do_not_import_each_other_in_circles() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    edges = {
        module: {
            other
            for one in at_the_top(path)
            for other in (one, one.rpartition(".")[0])
            if other in modules and other != module
        }
        for module, path in modules.items()
    }
    while leaves := [module for module, uses in edges.items() if not uses & edges.keys()]:
        for module in leaves:
            del edges[module]
    assert not edges, f"these import each other, or something that does: {sorted(edges)}"


def test_no_file_hides_a_standard_module() -> None:
    hidden = {path.stem for path in FILES if path.parent == ROOT} & set(sys.stdlib_module_names)
    assert not hidden
