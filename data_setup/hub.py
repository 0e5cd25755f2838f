"""A dataset on the Hub (or a directory in the Hub's layout) -> the raw folder, streamed, up to the caps.

Nothing but what is kept is held in memory, and a killed download goes on at the round it was in.
"""

from typing import Any

from configs.schema import Config
from corpus.documents import dataset_full
from corpus.fields import BadRecord, Fields, texts_of
from corpus.hub_rows import Streams, directory, newest_commit, open_streams, records, shares_of, wanted
from corpus.splitting import place_of
from data_setup.raw_text import RawFolder, json_line
from utils.messages import Meter, progress

# Rows of the source in a round, and bytes of them at which a round ends earlier.
ROUND_ROWS = 20_000
ROUND_BYTES = 64_000_000


def make(config: Config, folder: RawFolder) -> None:
    """Fill the raw folder. Raises UserError where the Hub does not give the dataset or its splits."""
    streams = _open(config, folder)
    ours_of = wanted(config, list(streams))
    folder.notes["hub_splits"] = {name: sorted(ours) for name, ours in ours_of.items()}
    total = config.dataset.max_documents
    with progress("download", total * len(config.dataset.splits) if total else None, "documents") as meter:
        meter.update("", done=folder.resumed)
        for name, ours in ours_of.items():
            _read_stream(config, folder, name, streams[name], ours, meter)
    folder.finish()


def _open(config: Config, folder: RawFolder) -> Streams:
    """The Hub's splits by name, none of them read yet."""
    if directory(config) is None and "revision" not in folder.notes:
        # A branch may move while the download is interrupted: what was begun is finished at the same commit.
        commit = newest_commit(config)
        if commit is not None:
            folder.notes["revision"] = commit
    return open_streams(config, folder.notes.get("revision"))


def _read_stream(config: Config, folder: RawFolder, name: str, stream: Any, ours: list[str], meter: Meter) -> None:
    """One of the Hub's splits, cut into ours where it gives several."""
    shares = shares_of(config, ours)
    fields = Fields(config) if config.dataset.max_bytes is not None else None
    done = folder.rows_read(name)
    rows = enumerate(records(name, stream.skip(done) if done else stream), done)
    ended = False
    while not ended and not all(folder.is_full(split) for split in ours):
        lines: dict[str, list[bytes]] = {split: [] for split in ours}
        sizes = dict.fromkeys(ours, 0)
        full: set[str] = {split for split in ours if folder.is_full(split)}
        count = n_bytes = 0
        while count < ROUND_ROWS and n_bytes < ROUND_BYTES and len(full) < len(ours):
            index, record = next(rows, (None, None))
            if index is None or record is None:
                ended = True
                break
            count += 1
            split = next(split for split, (low, high) in shares.items() if low <= place_of(index) < high)
            before = folder.splits.get(split, {"documents": 0, "text_bytes": 0})
            size = _text_bytes(fields, record)
            documents = before["documents"] + len(lines[split]) + 1
            if split in full or dataset_full(config, documents, before["text_bytes"] + sizes[split] + size):
                full.add(split)
                continue
            line = json_line(record)
            lines[split].append(line)
            sizes[split] += size
            n_bytes += len(line)
            meter.advance()
            if config.dataset.max_documents == documents:
                full.add(split)
        folder.add_round(name, count, lines, sizes, full)


def _text_bytes(fields: Fields | None, record: dict[str, Any]) -> int:
    """UTF-8 bytes of a record's text, where a cap asks for them. What is wrong with it is said when it is read."""
    if fields is None:
        return 0
    try:
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts_of(fields.of(record)))
    except BadRecord:
        return 0
