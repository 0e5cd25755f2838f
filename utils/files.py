"""Something to write -> a file or folder that is there whole or not at all, whenever the process is killed.

Everything is written under a temporary name in the same folder, synced to disk and renamed. What a killed process has
left under a temporary name is removed when the same thing is written again.
"""

import errno
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from utils.messages import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
# What the user can mend: a full disk, a quota, a folder that may not be written.
_MENDABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EFBIG, errno.ENAMETOOLONG,
}  # fmt: skip
_A_DAY = 24 * 3600.0


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a file that appears under its name when the block ends without an error. Text is UTF-8.

    Raises UserError where the disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary, open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The same for what writes a file by its path: yields the temporary path to write to."""
    path = Path(path)
    temporary = _temporary(path)
    with user_errors(path):
        make_folder(path.parent)
        _remove_leftovers(path)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def unnamed_file(folder: Path) -> IO[bytes]:
    """A file that vanishes with the process, unless `give_name` is called: for what is long in the making."""
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    except (AttributeError, OSError):  # not every system has them, nor every file system
        return cast(IO[bytes], tempfile.TemporaryFile(dir=folder))


def give_name(file: IO[bytes], path: Path) -> None:
    """Makes an unnamed file in the folder of `path` appear there, whole, and closes it. Raises UserError."""
    with atomic_path(path) as temporary, file:
        file.flush()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # Without a folder's descriptor Python calls link(), which would link the link.
            os.link(f"/proc/self/fd/{file.fileno()}", temporary.name, dst_dir_fd=folder, follow_symlinks=True)
        except OSError:
            file.seek(0)
            with open(temporary, "wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 22)
        finally:
            os.close(folder)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The same for a folder: yields an empty temporary folder to fill. A folder of that name is replaced."""
    path = Path(path)
    temporary = _temporary(path)
    with user_errors(path):
        make_folder(path.parent)
        _remove_leftovers(path)
        temporary.mkdir()
        try:
            yield temporary
            for part in sorted(temporary.rglob("*"), reverse=True):
                sync(part)
            sync(temporary)
            old = _temporary(path, "old")
            if path.exists():  # a folder cannot be renamed onto a full one: for an instant there is none
                os.rename(path, old)
            os.rename(temporary, path)
            sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Readable JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Raises UserError where there is no such file, or it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no file {shown(path)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{shown(path)} is damaged: not JSON ({error})") from None


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Makes a folder, and those above it. Raises UserError where that cannot be done."""
    try:
        with user_errors(Path(path)):
            Path(path).mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # /proc and the like, where nobody can make folders
        raise UserError(f"cannot make the folder {shown(path)}; choose another (paths.data, paths.runs)") from error
    return Path(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Makes a folder where there is none. Raises UserError where nothing can be written into it.

    For stages that write at their very end: to be told then would be too late.
    """
    if not os.access(make_folder(path), os.W_OK | os.X_OK):
        raise UserError(
            f"cannot write {shown(path)}: no permission, or a read-only disk; choose another folder (paths.data, "
            "paths.runs)"
        )


def sync(path: str | os.PathLike[str]) -> None:
    """Waits until a file or folder is on the disk, so that a crash of the machine does not undo a rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shown(path: str | os.PathLike[str]) -> str:
    """A path as the user would type it: relative where it lies below the current folder."""
    absolute = os.path.abspath(path)
    here = os.getcwd()
    return os.path.relpath(absolute, here) if absolute.startswith(here + os.sep) else absolute


def cannot_write(path: str | os.PathLike[str], error: BaseException) -> UserError | None:
    """The user's error behind an exception raised while writing; None where there is none.

    Libraries wrap the system's errors (safetensors in text, torch in a RuntimeError): their causes are searched too.
    """
    seen: BaseException | None = error
    while seen is not None:
        code = seen.errno if isinstance(seen, OSError) else None
        if code is None and ("os error 28" in str(seen) or os.strerror(errno.ENOSPC) in str(seen)):
            code = errno.ENOSPC
        reading_another = isinstance(seen, OSError) and seen.filename and not _is_below(seen.filename, Path(path))
        if code in _MENDABLE and not reading_another:
            full = code in (errno.ENOSPC, errno.EDQUOT)
            advice = "free some space, or choose" if full else "choose"
            return UserError(
                f"cannot write {shown(path)}: {os.strerror(code).lower()}; "
                f"{advice} another folder (paths.data, paths.runs)"
            )
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Around what writes `path` by itself: a full disk and the like become a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        mendable = cannot_write(path, error)
        if mendable is None:
            raise
        raise mendable from error


def _is_below(filename: str | bytes | int, path: Path) -> bool:
    """Whether an error is about the thing that is being written, or a folder above it."""
    if isinstance(filename, int):
        return True
    name = os.path.abspath(os.fsdecode(filename))
    folder = os.path.abspath(path.parent)
    return name.startswith(folder) or folder.startswith(name)


def _temporary(path: Path, ending: str = "tmp") -> Path:
    return path.parent / f".{path.name}.{socket.gethostname()}-{os.getpid()}.{ending}"


def _remove_leftovers(path: Path) -> None:
    """What killed processes have left of this same file: they ran here and are gone, or it is a day old."""
    for leftover in path.parent.glob(f".{_literal(path.name)}.*-*.*"):
        host, _, process = leftover.name[len(path.name) + 2 :].rpartition(".")[0].rpartition("-")
        if leftover.suffix not in (".tmp", ".old") or not process.isdigit() or leftover == _temporary(path):
            continue
        with suppress(OSError):
            gone = host == socket.gethostname() and not _is_running(int(process))
            if gone or time.time() - leftover.stat().st_mtime > _A_DAY:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
