"""A file, folder or pattern -> rows: records with the place they stand at, one at a time, in constant memory.

    .txt  .jsonl  .csv  .tsv (each also .gz or .zst)   .parquet   .arrow and folders of `save_to_disk`

A row that cannot be read is a row too, with what is wrong with it: whether that stops the stage is not decided here.
Text is UTF-8; a byte-order mark at the start of a file and the \\r of Windows line ends are no part of it.
"""

import csv
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
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


def rows_of(path: Path, text_unit: TextUnit, longest: int) -> Iterator[Row]:
    """The rows of one file. What has an unknown ending is text.

    longest: bytes of the longest document; a longer line or text is a bad row, and is never held whole.
    Raises UserError where the file cannot be read at all.
    """
    kind = kind_of(path)
    with _damage(path):
        if kind in (".jsonl", ".ndjson", ".json"):
            yield from _json_rows(path, longest)
        elif kind in (".csv", ".tsv"):
            yield from _table_rows(path, longest)
        elif kind == ".parquet":
            yield from _parquet_rows(path)
        elif kind == ".arrow":
            yield from _arrow_rows(path)
        elif text_unit == "file":
            yield _whole(path, longest)
        elif text_unit == "line":
            yield from (_text_row(path, *line) for line in _lines(path, longest))
        else:
            yield from _paragraphs(path, longest)


def parallel_rows(paths: list[Path], names: list[str], longest: int) -> Iterator[Row]:
    """Line n of the first file beside line n of the second. names: of the fields of the two.

    Raises UserError where one has more lines than the other.
    """
    counts = [count_lines(path) for path in paths]
    if counts[0] != counts[1]:
        raise UserError(
            f"line-parallel files differ in length: {shown(paths[0])} has {counts[0]:,} lines, {shown(paths[1])} has "
            f"{counts[1]:,}; line n of one must belong to line n of the other"
        )
    for one, other in zip(_lines(paths[0], longest), _lines(paths[1], longest), strict=True):
        rows = [_text_row(path, *line) for path, line in zip(paths, (one, other), strict=True)]
        bad = next((row for row in rows if row.record is None), None)
        texts = [row.record["text"] for row in rows if row.record is not None]
        yield bad or Row(rows[0].where, dict(zip(names, texts, strict=True)))


def count_lines(path: Path) -> int:
    """Lines of a text file; the last one counts whether it ends in a newline or not."""
    count, last = 0, b"\n"
    with _damage(path), _open(path) as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What libraries say of a damaged or forbidden file, as a UserError."""
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


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True, closefd=True)
        return io.BufferedReader(reader)
    return open(path, "rb")


def _lines(path: Path, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, bytes without the line end) of each line; None for the bytes of one that is too long.

    Only \\n ends a line (and \\r before it): the other separators of Unicode may stand in a text.
    """
    with _open(path) as file:
        number = 0
        while line := file.readline(longest + len(BOM) + len(b"\r\n")):
            number += 1
            if number == 1:
                line = line.removeprefix(BOM)
            content = line.removesuffix(b"\n").removesuffix(b"\r")
            if len(content) <= longest:
                yield number, content
                continue
            while line and not line.endswith(b"\n"):  # to its end, a piece at a time
                line = file.readline(1 << 20)
            yield number, None


def _text_row(path: Path, number: int, raw: bytes | None) -> Row:
    row = text_row(raw, f"{shown(path)}:{number}")
    if raw is not None and row.reason == "not UTF-8":
        line = number + raw[: _bad_byte(raw)].count(b"\n")
        return row._replace(where=f"{shown(path)}:{line}")
    return row


def text_row(raw: bytes | None, where: str = "") -> Row:
    """The row of a text. None: one that is too long."""
    if raw is None:
        return Row(where, None, "too long")
    try:
        return Row(where, {"text": raw.decode()})
    except UnicodeDecodeError as problem:
        return Row(where, None, "not UTF-8", f"byte {raw[problem.start]:#04x}")


def _bad_byte(raw: bytes) -> int:
    try:
        raw.decode()
    except UnicodeDecodeError as problem:
        return problem.start
    return 0


def _whole(path: Path, longest: int) -> Row:
    with _open(path) as file:
        raw = file.read(longest + len(BOM) + 1)
        raw = raw.removeprefix(BOM)
    if len(raw) > longest:
        return Row(
            f"{shown(path)}:1", None, "too long", "the whole file is one document; dataset.text_unit: paragraph or line"
        )
    return _text_row(path, 1, raw.replace(b"\r\n", b"\n"))


def _paragraphs(path: Path, longest: int) -> Iterator[Row]:
    """What stands between empty lines."""
    block: list[bytes] = []
    first, size = 0, -1  # a newline less than lines
    for number, line in _lines(path, longest):
        if line is None or line.strip():
            first = first or number
            size += longest + 2 if line is None else len(line) + 1
            if line is not None and size <= longest:
                block.append(line)
        elif first:
            yield _text_row(path, first, b"\n".join(block) if size <= longest else None)
            block, first, size = [], 0, -1
    if first:
        yield _text_row(path, first, b"\n".join(block) if size <= longest else None)


def _json_rows(path: Path, longest: int) -> Iterator[Row]:
    for number, raw in _lines(path, ESCAPED * longest):
        row = json_row(raw, f"{shown(path)}:{number}", is_first=number == 1)
        if row is not None:
            yield row


def json_row(raw: bytes | None, where: str = "", is_first: bool = False) -> Row | None:
    """The row of a line of JSON; None where the line is blank. is_first: of its file."""
    if raw is None:
        return Row(where, None, "too long")
    try:
        record = json.loads(raw.decode())
    except UnicodeDecodeError as problem:
        return Row(where, None, "not UTF-8", f"byte {raw[problem.start]:#04x}")
    except (ValueError, RecursionError) as problem:
        if not raw.strip():
            return None
        array = is_first and raw.lstrip().startswith(b"[")
        advice = "; the file is one array: write an object a line" if array else ""
        return Row(where, None, "not JSON", f"{problem}{advice}")
    if isinstance(record, dict):
        return Row(where, record)
    return Row(where, None, "not JSON", f"a line is an object, not {type(record).__name__}")


def lines_between(path: Path, start: int, stop: int, longest: int) -> Iterator[bytes | None]:
    """The lines that begin in the bytes start, …, stop - 1 of a file, without their ends; None for one too long."""
    with _damage(path), open(path, "rb") as file:
        file.seek(max(0, start - 1))
        block = file.read(stop - max(0, start - 1))
        if start:
            # Unless the byte before is a line's end, the first bytes belong to a line that began earlier.
            first = block.find(b"\n") + 1
            if not first:
                return
            block = block[first:]
        else:
            block = block.removeprefix(BOM)
        if not block:
            return
        lines = block.split(b"\n")
        last = lines.pop()
        if last:  # its end lies beyond; of one that is too long no more is read than tells that
            last = (last + file.readline(max(0, longest + len(b"\r\n") + 1 - len(last)))).removesuffix(b"\n")
            lines.append(last)
    for line in lines:
        content = line.removesuffix(b"\r")
        yield content if len(content) <= longest else None


def _table_rows(path: Path, longest: int) -> Iterator[Row]:
    """csv: quoted as usual. tsv: never quoted, so that a quotation mark in a text is only that."""
    csv.field_size_limit(max(csv.field_size_limit(), longest))
    # Bytes that are not UTF-8 become lone surrogates, so that the row, not the whole file, is bad.
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if kind_of(path) == ".csv":
            reader = csv.DictReader(file, strict=True)
        else:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = list(reader.fieldnames or [])
        if len(set(names)) < len(names):
            raise UserError(f"{shown(path)}:1: two columns have the same name, of {', '.join(names)}; rename one")
        while True:
            where = f"{shown(path)}:{reader.line_num + 1}"
            try:
                record = next(reader, None)
            except csv.Error as problem:
                yield Row(where, None, "not CSV", str(problem))
                continue
            if record is None:
                return
            # A row longer than the first line has its last cells under None.
            if None in record:
                yield Row(where, None, "not CSV", f"{len(record[None])} columns more than the first line")
            elif any(isinstance(cell, str) and _is_escaped(cell) for cell in record.values()):
                yield Row(where, None, "not UTF-8")
            else:
                yield Row(where, {k: v.replace("\r\n", "\n") if isinstance(v, str) else v for k, v in record.items()})


def _is_escaped(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from _batch_rows(path, file.iter_batches(batch_size=256))


def parquet_groups(path: Path) -> list[tuple[int, int]]:
    """Rows and bytes, uncompressed, of each row group of a Parquet file."""
    import pyarrow.parquet

    with _damage(path), pyarrow.parquet.ParquetFile(path) as file:
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in groups]


def parquet_group_rows(path: Path, group: int, first_row: int) -> Iterator[Row]:
    """The rows of one row group. first_row: rows of the file before it."""
    import pyarrow.parquet

    with _damage(path), pyarrow.parquet.ParquetFile(path) as file:
        if group < file.metadata.num_row_groups:  # an empty file has none
            yield from _batch_rows(path, file.iter_batches(batch_size=256, row_groups=[group]), first_row)


def _arrow_rows(path: Path) -> Iterator[Row]:
    yield from arrow_rows_between(path, 0, None)


def arrow_rows_between(path: Path, start: int, stop: int | None) -> Iterator[Row]:
    """The rows start, …, stop - 1 (None: to the end) of an Arrow file."""
    import pyarrow

    with _damage(path), pyarrow.memory_map(str(path)) as source:
        first = 0
        for batch in _arrow_batches(source):
            low, high = max(start - first, 0), batch.num_rows
            if stop is not None:
                high = min(high, stop - first)
            if low < high:
                yield from _batch_rows(path, _slices(batch.slice(low, high - low)), first + low)
            first += batch.num_rows
            if stop is not None and first >= stop:
                return


def arrow_row_count(path: Path) -> int:
    """Rows of an Arrow file; nothing of them is read."""
    import pyarrow

    with _damage(path), pyarrow.memory_map(str(path)) as source:
        return sum(batch.num_rows for batch in _arrow_batches(source))


def _arrow_batches(source: Any) -> Iterable[Any]:
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(source)
    except pyarrow.ArrowInvalid:  # the other of Arrow's two formats
        source.seek(0)
        file = pyarrow.ipc.open_file(source)
        return (file.get_batch(i) for i in range(file.num_record_batches))


def _slices(batch: Any, rows: int = 256) -> Iterator[Any]:
    """A batch of Arrow may be the whole file: only some rows at a time become Python objects."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _batch_rows(path: Path, batches: Iterable[Any], number: int = 0) -> Iterator[Row]:
    for batch in batches:
        try:
            records = batch.to_pylist()
        except UnicodeDecodeError:
            yield from _one_by_one(path, batch, number)
            number += batch.num_rows
            continue
        for record in records:
            number += 1
            yield Row(f"{shown(path)}:{number}", record)


def _one_by_one(path: Path, batch: Any, number: int) -> Iterator[Row]:
    for i in range(batch.num_rows):
        try:
            yield Row(f"{shown(path)}:{number + i + 1}", batch.slice(i, 1).to_pylist()[0])
        except UnicodeDecodeError:
            yield Row(f"{shown(path)}:{number + i + 1}", None, "not UTF-8")
