"""A dataset -> what it holds, on the screen: counts, bytes, a picture of the lengths, a few documents."""

import time
from collections import Counter
from itertools import islice

from configs.places import dataset_name, splits
from configs.schema import Config
from corpus.documents import BadDocuments, Document, read_documents
from corpus.fields import texts_of
from corpus.sources import has_split
from data_setup.raw_text import RawFolder
from utils.files import shown
from utils.messages import duration, histogram, info, progress, size, table

SAMPLES = 2
SAMPLE_CHARACTERS = 400


def show(config: Config, folder: RawFolder | None, arguments: str, already: bool = False) -> None:
    """Read the documents of every split once and print what there is.

    folder: the raw folder, where the source has one; arguments: of the next command; already: the folder was finished
    before, so its counts are not taken again.
    Raises UserError for the first bad document, where those stop a stage.
    """
    started = time.monotonic()
    bad = BadDocuments(config.tokenize.bad_documents)
    rows: list[tuple[str, str]] = []
    lengths: Counter[int] = Counter()
    samples: list[Document] = []
    n_bytes = 0
    names = [split for split in splits(config) if has_split(config, split)]
    with progress("reading", unit="documents") as meter:
        for split in names:
            documents = read_documents(config, split, on_bad=bad)
            if already and folder is not None:
                seen = list(islice(documents, SAMPLES))
                entry = folder.splits[split]
                count = f"{entry['documents']:,} documents, {size(entry['bytes'])} of JSON lines"
            else:
                seen, counts = [], [0, 0]
                for document in documents:
                    counts = [counts[0] + 1, counts[1] + document.n_bytes]
                    lengths[document.n_bytes] += 1
                    if len(seen) < SAMPLES:
                        seen.append(document)
                    meter.advance()
                count = f"{counts[0]:,} documents, {size(counts[1])} of text"
                n_bytes += counts[1]
            samples += seen if split == "train" else []
            rows.append((split, count))
    if lengths:
        info("\nLengths of the documents")
        info(histogram(lengths, "bytes"))
    for document in samples:
        info(f"\n--- {document.where}")
        info(_shortened(document))
    seconds = time.monotonic() - started
    source = config.dataset.source
    if folder is not None:
        rows.append(("where", shown(folder.path)))
        rows += [(name, str(value)) for name, value in folder.notes.items()]
    if already:
        rows.append(("finished", "before; nothing to do (--restart makes it again)"))
    else:
        rows.append(("read in", f"{duration(seconds)}, {size(n_bytes / max(seconds, 1e-9))}/s"))
    table(f"Dataset {dataset_name(config)} ({source})", rows + bad.rows(), next_commands(config, arguments))


def _shortened(document: Document) -> str:
    lines = []
    for name, value in document.fields.items():
        text = "\n".join(texts_of({name: value}))
        more = f" … ({len(text):,} characters)" if len(text) > SAMPLE_CHARACTERS else ""
        lines.append(f"{name}: {text[:SAMPLE_CHARACTERS]}{more}")
    return "\n".join(lines)


def next_commands(config: Config, arguments: str) -> list[str]:
    """What is run after the download stage."""
    if config.tokenizer.path is not None:
        return [f"python tokenize_data.py {arguments}"]
    library = "sp" if config.tokenizer.kind in ("char", "word") else "hf"
    return [f"python -m tokenizer.train_{library}_tokenizer {arguments}", f"python tokenize_data.py {arguments}"]
