"""A dataset on the Hub (or a directory in the Hub's layout) -> the raw folder, streamed, up to the caps.

Nothing but what is kept is held in memory, and a killed download goes on at the round it was in.
"""

from collections.abc import Iterator
from typing import Any

from configs.pins import revision_of
from configs.places import REPOSITORY
from configs.schema import Config
from corpus.documents import dataset_full
from corpus.fields import BadRecord, Fields, texts_of
from corpus.splitting import CUT, place_of, share
from data_setup.raw_text import RawFolder, json_line
from utils.messages import Meter, UserError, progress

# Rows of the source in a round, and bytes of them at which a round ends earlier.
ROUND_ROWS = 20_000
ROUND_BYTES = 64_000_000


def make(config: Config, folder: RawFolder) -> None:
    """Fill the raw folder. Raises UserError where the Hub does not give the dataset or its splits."""
    if not config.dataset.name:
        raise UserError(
            "dataset.source is hub, but dataset.name names no dataset; set it to a name such as org/dataset"
        )
    streams = _open(config, folder)
    wanted = _wanted(config, list(streams))
    folder.notes["hub_splits"] = {name: sorted(ours) for name, ours in wanted.items()}
    total = config.dataset.max_documents
    with progress("download", total * len(config.dataset.splits) if total else None, "documents") as meter:
        meter.update("", done=folder.resumed)
        for name, ours in wanted.items():
            _read_stream(config, folder, name, streams[name], ours, meter)
    folder.finish()


def _open(config: Config, folder: RawFolder) -> dict[str, Any]:
    """The Hub's splits by name, none of them read yet."""
    import datasets
    import huggingface_hub

    dataset = config.dataset
    assert dataset.name is not None
    local = REPOSITORY / dataset.name
    name = str(local) if local.is_dir() else dataset.name
    revision = folder.notes.get("revision") or revision_of(config, "dataset")
    datasets.disable_progress_bars()
    try:
        if not local.is_dir() and "revision" not in folder.notes and not huggingface_hub.constants.HF_HUB_OFFLINE:
            # A branch may move while the download is interrupted: what was begun is finished at the same commit.
            revision = huggingface_hub.HfApi().dataset_info(name, revision=revision).sha
            folder.notes["revision"] = revision
        return dict(datasets.load_dataset(name, dataset.subset, revision=revision, streaming=True))
    except Exception as problem:
        said = str(problem).strip().splitlines() or [type(problem).__name__]
        place = "directory" if local.is_dir() else "Hub"
        raise UserError(
            f"dataset {dataset.name}{f' ({dataset.subset})' if dataset.subset else ''} cannot be had from the {place}: "
            f"{said[0]}; check dataset.name, subset and revision, and the network"
        ) from problem


def _wanted(config: Config, there: list[str]) -> dict[str, list[str]]:
    """Which of our splits come from which of the Hub's; what the Hub lacks is cut from train."""
    mapping = config.dataset.splits
    wanted: dict[str, list[str]] = {}
    for ours, name in mapping.items():
        if name not in there and (ours == "train" or name != ours):
            raise UserError(f"dataset.splits: the dataset has no split '{name}'; it has {', '.join(there)}")
        wanted.setdefault(name if name in there else mapping["train"], []).append(ours)
    return wanted


def _read_stream(config: Config, folder: RawFolder, name: str, stream: Any, ours: list[str], meter: Meter) -> None:
    """One of the Hub's splits, cut into ours where it gives several."""
    cut = tuple(split for split in CUT if split in ours)
    shares = {split: share(config.dataset, split, cut) if len(ours) > 1 else (0.0, 1.0) for split in ours}
    fields = Fields(config) if config.dataset.max_bytes is not None else None
    done = folder.rows_read(name)
    rows = enumerate(_records(name, stream.skip(done) if done else stream), done)
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


def _records(name: str, stream: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from stream
    except (OSError, ValueError) as problem:
        said = str(problem).strip().splitlines() or [type(problem).__name__]
        raise UserError(
            f"the download of the split '{name}' broke off: {said[0]}; the same command goes on from here"
        ) from problem


def _text_bytes(fields: Fields | None, record: dict[str, Any]) -> int:
    """UTF-8 bytes of a record's text, where a cap asks for them. What is wrong with it is said when it is read."""
    if fields is None:
        return 0
    try:
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts_of(fields.of(record)))
    except BadRecord:
        return 0
