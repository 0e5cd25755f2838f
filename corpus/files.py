"""A path -> the files that it names, what is in them by their endings, and what opens them."""

import glob
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from utils.files import read_json, shown
from utils.messages import UserError

TextUnit = Literal["file", "line", "paragraph"]

COMPRESSED = (".gz", ".zst")
KNOWN = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
BOM = b"\xef\xbb\xbf"
# A record may hold more than its text, and escape it: what is too long is measured again once the text is known.
ESCAPED = 8


class Row(NamedTuple):
    """What stands at a place: a record, or what is wrong there."""

    where: str  # "file:line", or "file:row" where a format has no lines
    record: dict[str, Any] | None
    reason: str = ""  # of a record that cannot be read: what is counted, such as "not JSON"
    detail: str = ""  # and what is said beside it


def find(pattern: str | Path) -> list[Path]:
    """The files that a path names, in sorted order: itself, all known ones below a folder, or those of a pattern.

    A folder of `save_to_disk` is its Arrow files. Raises UserError where there are none.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path)
    matches = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))
    files = [file for match in matches for file in ([match] if match.is_file() else _in_folder(match))]
    if not files:
        raise UserError(
            f"no file {shown(path)}; correct the path (dataset.path, train_path, validation_path, test_path)"
        )
    return files


def _in_folder(folder: Path) -> list[Path]:
    if (folder / "state.json").is_file():  # what save_to_disk writes last
        return [folder / part["filename"] for part in read_json(folder / "state.json")["_data_files"]]
    if (folder / "dataset_dict.json").is_file():
        names = read_json(folder / "dataset_dict.json")["splits"]
        advice = ", ".join(f"{name}: {shown(folder / name)}" for name in names)
        raise UserError(
            f"{shown(folder)} holds several splits ({', '.join(names)}); name each in dataset.train_path, "
            f"validation_path, test_path: {advice}"
        )
    below = (path for path in folder.rglob("*") if path.is_file() and kind_of(path) in KNOWN)
    files = sorted(path for path in below if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    if not files:
        raise UserError(
            f"no file in the folder {shown(folder)} that can be read ({', '.join(KNOWN)}, also {', '.join(COMPRESSED)})"
        )
    return files


def kind_of(path: Path) -> str:
    """The ending that says what is in a file, without that of its compression."""
    return (Path(path.stem) if path.suffix in COMPRESSED else path).suffix.lower()


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Around reading: what libraries say of a damaged or forbidden file, as a UserError."""
    broken: list[type[Exception]] = [EOFError, gzip.BadGzipFile, zlib.error]
    if path.suffix == ".zst":
        import zstandard

        broken.append(zstandard.ZstdError)
    if kind_of(path) in (".parquet", ".arrow"):
        import pyarrow

        broken.append(pyarrow.ArrowException)
    try:
        yield
    except tuple(broken) as problem:
        raise UserError(f"{shown(path)} is damaged: {str(problem).splitlines()[0]}; get it again") from problem
    except OSError as problem:
        raise UserError(f"{shown(path)} cannot be read: {problem.strerror or problem}") from problem


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file, without its compression."""
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True, closefd=True)
        return io.BufferedReader(reader)
    return open(path, "rb")
