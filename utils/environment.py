"""This machine, this code, this command -> a record of them, so that a run can be understood and repeated.

It is cheap, and never a reason for a run to fail: what cannot be found out is left out.
"""

import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.files import REPOSITORY
from utils.hashing import sha256_bytes

_PACKAGES = (
    "torch", "pytorch-lightning", "transformers", "tokenizers", "datasets", "sentencepiece", "safetensors", "numpy",
    "torchmetrics", "sacrebleu", "pydantic",
)  # fmt: skip
# Of the environment only what changes how a run goes: the rest may hold secrets.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "WORLD_SIZE",
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_NTASKS",
)
_SOURCES = (".py", ".yaml", ".yml", ".sh", ".toml", ".txt", ".md", ".cu", ".cpp")
_LARGEST_SOURCE = 1_000_000  # bytes; a larger untracked file is data, whatever its name
_LARGEST_PATCH = 20_000_000
_PATIENCE = 10.0  # seconds for git and for nvidia-smi


def describe() -> tuple[dict[str, Any], bytes | None]:
    """-> the record, and how the code differs from its commit: a patch for `git apply`, untracked source included."""
    gpus = _start(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    code, patch = _code()
    record = {
        "command": shlex.join([sys.executable, *sys.argv]),
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "code": code,
        "machine": {
            "host": socket.gethostname(),
            "system": platform.platform(),
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gb": _memory(),
            "gpus": _lines(gpus),
        },
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    return record, patch


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _start(command: list[str]) -> subprocess.Popen[str] | None:
    """Starts it, to be read later; None where there is no such program."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
        )
    except OSError:
        return None


def _lines(process: subprocess.Popen[str] | None) -> list[str]:
    if process is None:
        return []
    try:
        output, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return []
    return output.splitlines() if process.returncode == 0 else []


def _git(*arguments: str, **variables: str) -> bytes:
    """Raises OSError or SubprocessError."""
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments],
        capture_output=True,
        check=True,
        timeout=_PATIENCE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **variables},
    )
    return done.stdout


def _code() -> tuple[dict[str, Any], bytes | None]:
    """The commit, and the patch from there to the code as it is."""
    try:
        top = Path(os.fsdecode(_git("rev-parse", "--show-toplevel").rstrip(b"\n")))
        if top.resolve() != REPOSITORY:  # a copy inside of somebody's other repository
            return {"commit": None}, None
        commit = _git("rev-parse", "HEAD").decode().strip()
        names = _git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
        untracked = [
            name for name in map(os.fsdecode, names) if name.endswith(_SOURCES) and _is_small(REPOSITORY / name)
        ]
        patch = _patch(untracked)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {"commit": None}, None
    if not patch:
        return {"commit": commit, "changed": False}, None
    if len(patch) > _LARGEST_PATCH:
        return {"commit": commit, "changed": True, "patch": None}, None
    return {"commit": commit, "changed": True, "patch": f"{sha256_bytes(patch)[:12]}.patch"}, patch


def _patch(untracked: list[str]) -> bytes:
    """Taken through a copy of the index, in which untracked files count as added; git's own is not touched."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(os.fsdecode(_git("rev-parse", "--git-path", "index").rstrip(b"\n")))
        copy = Path(folder) / "index"
        if (REPOSITORY / index).exists():
            shutil.copyfile(REPOSITORY / index, copy)
        if untracked:
            _git("add", "--intent-to-add", "--", *untracked, GIT_INDEX_FILE=str(copy))
        return _git("diff", "--binary", "--no-ext-diff", "--no-color", "HEAD", GIT_INDEX_FILE=str(copy))


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size <= _LARGEST_SOURCE
    except OSError:
        return False
