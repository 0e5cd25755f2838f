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

FLAGS = ("-O3", "-shared", "-fPIC")  # nothing of this very processor: other machines may read the same folder
MOST_SECONDS = 120


@cache
def compiled(source: Path) -> ctypes.CDLL | None:
    """The functions of a file of C; None where it cannot be compiled or opened: see `why_not`."""
    return _opened(source)[0]


def why_not(source: Path) -> str | None:
    """What keeps a file of C from being used, for the user to read; None: nothing."""
    return _opened(source)[1]


@cache
def _opened(source: Path) -> tuple[ctypes.CDLL | None, str | None]:
    version = repr((source.read_bytes(), FLAGS, sys.platform, platform.machine()))
    kept = Path(importlib.util.cache_from_source(str(source.with_suffix(".py"))))
    path = kept.with_name(f"{source.stem}-{hashlib.sha256(version.encode()).hexdigest()[:16]}.so")
    try:
        if not path.exists():
            _compile(source, path)
        return ctypes.CDLL(str(path)), None
    except subprocess.CalledProcessError as problem:
        return None, f"the C compiler fails on {source.name}: {problem.stderr.decode(errors='replace').strip()[:200]}"
    except (OSError, subprocess.TimeoutExpired) as problem:
        return None, str(problem)


def _compile(source: Path, path: Path) -> None:
    """Raises OSError where there is no compiler, or no room; subprocess.CalledProcessError, TimeoutExpired."""
    command = shlex.split(os.environ.get("CC") or "cc")
    if not command or shutil.which(command[0]) is None:
        raise FileNotFoundError(f"there is no C compiler '{' '.join(command)}'")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        subprocess.run(
            [*command, *FLAGS, "-o", str(made), str(source)], check=True, capture_output=True, timeout=MOST_SECONDS
        )
        made.replace(path)  # whole or not at all: others may be about to open it
