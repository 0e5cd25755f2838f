"""A file of C -> its functions, where the machine has a compiler.

It is compiled by `cc` ($CC, if that is set) when it is first asked for, and the result is kept where Python keeps what
it makes of its own files. Whoever asks has a way without it: there may be no compiler.
"""

import ctypes
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from utils.files import atomic_write
from utils.messages import UserError

FLAGS = ("-O3", "-shared", "-fPIC")  # nothing of this very processor: other machines may read the same folder
MOST_SECONDS = 120


def compiled(source: Path) -> ctypes.CDLL | None:
    """The functions of a file of C; None where it cannot be compiled or opened: see `why_not`."""
    return _opened(source)[0]


def why_not(source: Path) -> str | None:
    """What keeps a file of C from being used, for the user to read; None: nothing."""
    return _opened(source)[1]


@cache
def _opened(source: Path) -> tuple[ctypes.CDLL | None, str | None]:
    compiler = os.environ.get("CC") or "cc"
    version = _digest(repr((source.read_bytes(), compiler, FLAGS, sys.platform, platform.machine())).encode())
    folder = Path(importlib.util.cache_from_source(str(source.with_suffix(".py")))).parent
    try:
        path = _kept(folder, f"{source.stem}-{version}")
        if path is None:
            content = _compile(source, compiler)
            path = folder / f"{source.stem}-{version}-{_digest(content)}.so"
            with atomic_write(path) as file:
                file.write(content)
        return ctypes.CDLL(str(path)), None
    except subprocess.CalledProcessError as problem:
        return None, f"the C compiler fails on {source.name}: {problem.stderr.decode(errors='replace').strip()[:200]}"
    except (OSError, UserError, subprocess.TimeoutExpired) as problem:
        return None, str(problem)


def _kept(folder: Path, name: str) -> Path | None:
    """What was compiled earlier, if it is whole: to run into the end of a damaged file ends the process."""
    found = (path for path in folder.glob(f"{name}-*.so") if path.stem == f"{name}-{_digest(path.read_bytes())}")
    return next(found, None)


def _compile(source: Path, compiler: str) -> bytes:
    """Raises OSError where there is no compiler; subprocess.CalledProcessError, TimeoutExpired."""
    command = shlex.split(compiler)
    if not command or shutil.which(command[0]) is None:
        raise FileNotFoundError(f"there is no C compiler '{compiler}'")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.so"
        subprocess.run(
            [*command, *FLAGS, "-o", str(made), str(source)], check=True, capture_output=True, timeout=MOST_SECONDS
        )
        return made.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
