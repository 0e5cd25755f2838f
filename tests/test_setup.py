"""Setting up: what a wrong Python is told, which index torch comes from, and that nothing is done twice."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "tools/setup_venv.sh"
# A Python that says its version, makes environments that hold a copy of itself, and notes what pip is asked for.
PYTHON = """#!/bin/bash
here=$(dirname "$0")
case "$*" in
    *version_info*) exit {too_old} ;;
    *python_version*) echo {version} ;;
    *"-m venv"*) mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
    *"-m pip --version"*) ;;
    *"-m pip install"*) said=$*; echo "${{said#*-check }}" >>"$here/../pip.log" ;;
esac
"""


def python(folder: Path, version: str = "3.11.9") -> Path:
    path = folder / f"python-{version}"
    path.write_text(PYTHON.format(version=version, too_old=int(version == "3.9.2")))
    path.chmod(0o755)
    return path


def set_up(folder: Path, interpreter: Path | str, index: str = "") -> subprocess.CompletedProcess[str]:
    command = ["bash", SETUP, folder / "venv", interpreter, index, "requirements.txt"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def asked_of_pip(folder: Path) -> list[str]:
    log = folder / "venv/pip.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


@pytest.mark.parametrize(
    ("interpreter", "said"),
    [("python-3.9.2", "needs Python 3.11 or newer, and"), ("no-such-python", "there is no")],
)
def test_a_python_that_will_not_do_gets_one_line(interpreter: str, said: str, tmp_path: Path) -> None:
    python(tmp_path, "3.9.2")
    ran = set_up(tmp_path, tmp_path / interpreter)
    assert ran.returncode == 2 and not ran.stdout
    assert len(ran.stderr.splitlines()) == 1 and said in ran.stderr and "make PYTHON=" in ran.stderr
    assert not (tmp_path / "venv").exists()


def test_what_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    assert set_up(tmp_path, python(tmp_path)).returncode == 0
    assert asked_of_pip(tmp_path) == ["-r requirements.txt"]
    again = set_up(tmp_path, python(tmp_path))
    assert again.returncode == 0 and not again.stdout and asked_of_pip(tmp_path) == []


def test_torch_comes_from_the_index_that_was_named(tmp_path: Path) -> None:
    pin = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch=="))
    assert set_up(tmp_path, python(tmp_path), "https://wheels/cu126").returncode == 0
    first = f"--force-reinstall --no-deps --index-url https://wheels/cu126 {pin}"
    assert asked_of_pip(tmp_path) == [first, "--extra-index-url https://wheels/cu126 -r requirements.txt"]
    # Without the name the environment keeps the torch that it has.
    assert set_up(tmp_path, python(tmp_path)).returncode == 0 and asked_of_pip(tmp_path) == []
    assert set_up(tmp_path, python(tmp_path), "https://wheels/cpu").returncode == 0
    assert asked_of_pip(tmp_path)[0] == first.replace("cu126", "cpu")


def test_an_environment_of_another_python_is_not_used_in_silence(tmp_path: Path) -> None:
    assert set_up(tmp_path, python(tmp_path)).returncode == 0
    ran = set_up(tmp_path, python(tmp_path, "3.12.1"))
    assert ran.returncode == 2 and "has Python 3.11.9" in ran.stderr


def test_make_alone_lists_its_targets() -> None:
    help_ = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True).stdout
    for target in ("quickstart", "test", "proofs", "lint", "fix", "configs"):
        assert f"make {target}" in help_
