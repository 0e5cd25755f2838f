"""C is compiled once, whole or not at all, and whoever has no compiler is told so."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils import compiled as module
from utils.compiled import compiled, why_not

needs_compiler = pytest.mark.skipif(bool(why_not(Path("corpus/lines.c").absolute())), reason="there is no C compiler")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    yield
    module._opened.cache_clear()


def write(folder: Path, says: int) -> Path:
    source = folder / "small.c"
    source.write_text(f"int says(void) {{ return {says}; }}\n")
    module._opened.cache_clear()
    return source


def made(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".c")


@needs_compiler
def test_it_is_compiled_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = compiled(write(tmp_path, 3))
    assert library is not None and library.says() == 3
    (first,) = made(tmp_path)
    assert first.parent.name == "__pycache__"
    changed = compiled(write(tmp_path, 4))
    assert isinstance(changed, ctypes.CDLL) and changed.says() == 4 and len(made(tmp_path)) == 2
    monkeypatch.setattr(module, "_compile", None)  # it is not needed any more
    again = compiled(write(tmp_path, 3))
    assert again is not None and again.says() == 3 and len(made(tmp_path)) == 2


@needs_compiler
@pytest.mark.parametrize("kept", [0, 100, 0.5, 1.0])
def test_what_is_damaged_is_made_again(tmp_path: Path, kept: float) -> None:
    source = write(tmp_path, 3)
    code = "import sys, pathlib; from utils.compiled import compiled; print(compiled(pathlib.Path(sys.argv[1])).says())"
    command = [sys.executable, "-c", code, str(source)]
    here = Path(__file__).parents[1]
    assert subprocess.run(command, cwd=here, capture_output=True, check=True).stdout.strip() == b"3"
    (path,) = made(tmp_path)
    content = path.read_bytes()
    end = int(kept * len(content)) if isinstance(kept, float) else kept
    path.write_bytes(content[:end] if end < len(content) else content[:-1] + b"x")
    assert subprocess.run(command, cwd=here, capture_output=True, check=True).stdout.strip() == b"3"
    assert made(tmp_path) == [path] and path.read_bytes() == content


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    source = write(tmp_path, 3)
    assert compiled(source) is None and why_not(source) == "there is no C compiler 'no-such-compiler -m64'"
    assert not made(tmp_path)


@needs_compiler
def test_a_compiler_that_fails(tmp_path: Path) -> None:
    source = write(tmp_path, 3)
    source.write_text("no C at all")
    assert compiled(source) is None and str(why_not(source)).startswith("the C compiler fails on small.c: ")
    assert not made(tmp_path)


@needs_compiler
def test_many_at_once(tmp_path: Path) -> None:
    source = write(tmp_path, 5)
    code = "import sys, pathlib; from utils.compiled import compiled; print(compiled(pathlib.Path(sys.argv[1])).says())"
    command = [sys.executable, "-c", code, str(source)]
    here = Path(__file__).parents[1]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=here) for _ in range(6)]
    assert [process.communicate()[0].strip() for process in running] == [b"5"] * 6
    assert len(made(tmp_path)) == 1


@needs_compiler
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    source = write(tmp_path, 3)
    tmp_path.chmod(0o500)
    assert compiled(source) is None and "may not be written" in str(why_not(source))
