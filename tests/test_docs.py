"""README and docs: commands name what exists, configs load, settings and links are real, examples run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import BaseModel

from configs.loading import load_config
from configs.schema import Config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*/user_*/README.md"))]
# What stands before the first word of a command that is not ours to check.
NOT_OURS = {"source", "apt-get", "conda", "pip", "pre-commit", "sed", "wandb", "DATA=/scratch/me/data"}

# Doors that take more than a config and settings.
OPERANDS = {"tools.show", "tools.export_tokens", "tools.import_tokens"}


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is the content of: its first line is a comment with nothing but a path."""
        found = re.match(r"# ([\w./]+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(str(page.relative_to(ROOT)), text[: found.start()].count("\n") + 2, found[1], found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def place(block: Block) -> str:
    return f"{block.page}:{block.line}"


BLOCKS = [block for page in PAGES for block in blocks(page)]
YAML = [block for block in BLOCKS if block.language == "yaml" and not block.file]
COMMANDS = [
    pytest.param(line, id=f"{block.page}:{line}")
    for block in BLOCKS
    if block.language == "bash" and block.page != "docs/extending.md"
    for line in block.text.replace("\\\n", "").splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.fixture(autouse=True)
def places_of_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CORPUS", "MODELS", "DATA"):
        monkeypatch.setenv(variable, "/somewhere")


@pytest.mark.parametrize("block", YAML, ids=place)
def test_configs_in_the_docs_load(block: Block, tmp_path: Path) -> None:
    (tmp_path / "example.yaml").write_text(block.text)
    load_config(tmp_path / "example.yaml")


def flags_of(door: list[str]) -> str:
    helped = subprocess.run([sys.executable, *door, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert helped.returncode == 0, helped.stderr
    return helped.stdout


def check_call(words: list[str]) -> None:
    """`train.py CONFIG key=value --flag`, or `-m package.module …`: the file, the config, the flags."""
    door = words[:2] if words[0] == "-m" else words[:1]
    file = door[-1] if door[-1].endswith(".py") else door[-1].replace(".", "/") + ".py"
    assert (ROOT / file).exists(), f"there is no {file}"
    config, *rest = words[len(door) :] or [None]
    if config is None:
        return
    if door[-1] in OPERANDS:  # folders, formats and values of options stand between config and settings
        rest = [word for word in rest if "=" in word or word.startswith("--")]
        config = config if config.endswith(".yaml") else "configs/quickstart.yaml"
    # In the docs mine.yaml is the reader's own file, which the reader has copied from the quickstart's.
    config = config.replace("configs/user_configs/mine.yaml", "configs/quickstart.yaml")
    load_config(ROOT / config, [word for word in rest if not word.startswith("-")])
    for flag in [word for word in rest if word.startswith("-")]:
        assert flag in flags_of(door), f"{file} has no {flag}"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_the_docs_name_what_exists(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "python" and words[1] != "-c":
        check_call(words[1:])
    elif words[0] == "torchrun":
        check_call([word for word in words[1:] if not word.startswith("--nproc")])
    elif words[0] == "sbatch":
        script, *rest = [word for word in words[1:] if not word.startswith("--")]
        assert (ROOT / script.replace("user_slurm/", "")).exists()
        check_call(["train.py", *rest])
    elif words[0] == "condor_submit":
        assert (ROOT / words[1]).exists()
    elif words[0] == "make":
        assert subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True).returncode == 0
    elif words[0] == "cp":
        assert (ROOT / words[1]).exists()
    elif words[0] == "python":
        assert subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True).returncode == 0
    else:
        assert words[0] in NOT_OURS, f"nothing here checks `{command}`"


def setting(dotted: str) -> bool:
    """Whether the schema has it; below a setting that holds arguments of other code anything goes."""
    section: type[BaseModel] | None = Config
    for key in dotted.split("."):
        if section is None:
            return True
        if key not in section.model_fields:
            return section.model_config.get("extra") == "allow"
        kind = section.model_fields[key].annotation
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_docs_are_in_the_schema(page: Path) -> None:
    sections = "|".join(name for name, field in Config.model_fields.items() if field.annotation is not str)
    wrong = []
    for line in page.read_text().splitlines():
        later = "later" in line or "not there yet" in line
        # In the tables of coming_from.md the first column is another system's.
        ours = line.split("|", 2)[-1] if page.name == "coming_from.md" else line
        for dotted in re.findall(rf"`((?:{sections})\.[a-z_.]+)", ours):
            file = (ROOT / dotted).exists() or dotted.endswith((".py", ".yaml", ".json"))
            if not (later or file or setting(dotted.rstrip("."))):
                wrong.append(dotted)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_docs_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        assert other.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            plain = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in plain, f"{page.name} links to {target}"


def test_the_readme_names_rooms_that_exist() -> None:
    tree = next(block.text for block in blocks(ROOT / "README.md") if "-- the pipeline" in block.text)
    named = [word for line in tree.splitlines() for word in re.findall(r"^([\w./]+(?:  [\w./]+)*)(?:   |$)", line)]
    for room in " ".join(named).split():
        assert (ROOT / room).exists(), f"the README's tree has {room}"


# ---- extending.md is run, in a copy of the house -------------------------------------------------------------------

SMALL = (
    "trainer.max_steps=2 trainer.global_batch_size=4 data.max_seq_len=32 trainer.validation_windows=4 "
    "inference.max_samples=4 generation.decoding.max_new_tokens=4 logging.tensorboard=false"
).split()


def run(command: str, house: Path, *more: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = ["bash", "-c", f"{command} {shlex.join(more)}"]
    ran = subprocess.run(words, cwd=house, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, f"{command}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


def apply(change: str, house: Path) -> None:
    """A diff without line numbers: `--- file`, then a stretch of lines that the file has once."""
    header, _, body = change.partition("\n")
    file = house / header.removeprefix("--- ")
    lines = body.splitlines()
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    text = file.read_text()
    assert text.count(before) == 1, f"docs/extending.md changes lines that {file.name} does not have:\n{before}"
    file.write_text(text.replace(before, after))


def follow(example: list[Block], house: Path) -> None:
    """Does what a section of the page says: writes its files, applies its diffs, runs its commands."""
    printed = ""
    for block in example:
        if block.language == "bash":
            for command in block.text.replace("\\\n", "").splitlines():
                printed += run(command, house, *(SMALL if "configs/" in command else []))
        elif block.language == "diff":
            apply(block.text, house)
        elif block.language == "text":
            for line in block.text.splitlines():
                assert line.strip() in printed, f"the page promises {line!r}; printed was:\n{printed[-3000:]}"
        else:
            assert block.file, f"{block.page}:{block.line} must say which file it is"
            (house / block.file).write_text(block.text)


def examples() -> dict[str, list[Block]]:
    """The sections of extending.md that have code: heading -> its blocks, in order."""
    page = ROOT / "docs/extending.md"
    headings = [(n, line[3:]) for n, line in enumerate(page.read_text().splitlines(), 1) if line.startswith("## ")]
    found: dict[str, list[Block]] = {}
    for block in blocks(page):
        found.setdefault(max(one for one in headings if one[0] < block.line)[1], []).append(block)
    return found


FIRST, *OTHERS = examples()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository without what stages have made, and in it the first example: the others use its data."""
    house = tmp_path_factory.mktemp("copy") / "liftoff"
    left_out = shutil.ignore_patterns(".git", ".venv", "data", "runs", "tests", "benchmarks", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, house, ignore=left_out)
    follow(examples()[FIRST], house)
    return house


@pytest.mark.parametrize("heading", OTHERS)
def test_examples_of_extending_run(heading: str, house: Path) -> None:
    follow(examples()[heading], house)
