"""The documents of a split -> its token shards and their manifest; what is finished is never done again.

Documents are encoded by worker processes and written in their order. Shards appear whole or not at all, and each says
how many documents it and those before it have used up: after a kill the same command goes on from there, and the folder
is byte for byte what it would have been. With `parts`, blocks of 1,024 documents go to the parts in turn.
"""

import os
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.places import shards_dir, splits
from configs.schema import Config
from corpus.documents import BadDocuments, input_fingerprint, input_settings, read_documents
from corpus.encoding import Encoder, Piece, Refused, layout_of, sides
from corpus.fields import texts_of
from corpus.inputs import has_split
from corpus.raw import differences
from corpus.shards import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    SETTINGS,
    ShardRecord,
    ShardWriter,
    finished_shard,
    map_tensors,
    read_about,
    read_manifest,
    shard_name,
    totals,
)  # fmt: skip
from corpus.workers import Workers
from tokenizer.tokenizer import Tokenizer
from utils.files import make_folder, read_json, shown, write_json
from utils.hashing import sha256_file, sha256_json
from utils.messages import Meter, UserError, info, progress

BLOCK = 1024  # documents in a row that go to the same part
PIECE_DOCUMENTS, PIECE_CHARACTERS = 512, 500_000  # of what a worker gets at once


@dataclass
class Made:
    """What tokenising a split came to."""

    split: str
    folder: Path
    manifest: dict[str, Any]
    seconds: float  # 0: it was there already
    n_bytes: int  # of text, encoded now
    bad: BadDocuments


def settings_of(config: Config, split: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """All that the bytes of a split's shards depend on."""
    more = {name: getattr(config.tokenize, name) for name in ("parts", "shard_tokens", "max_document_bytes")}
    return {
        **layout_of(config).settings(),
        **{f"tokenize.{name}": value for name, value in more.items()},
        "tokenizer's fingerprint": tokenizer.fingerprint,
        "hash of the input": input_fingerprint(config, split),
        "format version": FORMAT_VERSION,
    }


def tokenise(config: Config, tokenizer: Tokenizer, restart: bool = False) -> list[Made]:
    """All splits that the config has. restart: folders that are there are moved aside first.

    Raises UserError for what the user can mend: other settings than those of a folder, bad documents, a full disk."""
    encoder = Encoder(tokenizer, layout_of(config))
    wanted = config.tokenize.num_workers
    made = []
    with Workers(encoder, cores() if wanted is None else wanted) as pool:
        for split in splits(config):
            if not has_split(config, split):
                info(f"{split}: the config names no documents for it")
                continue
            folder = shards_dir(config) / split
            if restart and folder.exists():
                aside = folder.with_name(f"{split}.{time.strftime('%Y%m%d-%H%M%S')}")
                folder.rename(aside)
                info(f"{split}: what was in {shown(folder)} is now in {shown(aside)}")
            made.append(_tokenise_split(config, split, tokenizer, folder, pool))
    if not made:
        raise UserError("the config names no documents for any split; see dataset.path and dataset.train_path")
    return made


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tokenise_split(config: Config, split: str, tokenizer: Tokenizer, folder: Path, pool: Workers) -> Made:
    settings = settings_of(config, split, tokenizer)
    bad = BadDocuments(config.tokenize.bad_documents)
    manifest = _begin(folder, settings)
    if manifest is not None:
        return Made(split, folder, manifest, 0.0, 0, bad)
    started = time.monotonic()
    about = {"format": FORMAT, "settings": sha256_json(settings)}
    records: list[ShardRecord] = []
    skipped: Counter[str] = Counter()
    refused = BadDocuments("skip")  # by the encoder, and counted by the shards
    n_bytes = 0
    with progress(f"tokenising {split}", unit="MB") as meter:
        for part in range(config.tokenize.parts):
            finished = _finished(folder, part, about)
            if finished:
                info(f"{split}: going on after {finished[-1].read_until:,} documents of part {part}")
            writer = ShardWriter(folder, part, pool.work.dtype, config.tokenize.shard_tokens, about, finished)
            bad = BadDocuments(config.tokenize.bad_documents)  # every part reads all of the input: counted once
            documents = _of_part(config, split, part, writer.read_until, bad)
            with closing(documents):  # files that are being read are closed at once when something goes wrong
                before = meter.done
                for tokens in pool.map(_pieces(documents, meter)):
                    writer.add(tokens)
                    for _, reason, where in tokens.skipped:
                        refused.add(where, reason)
                    meter.update(f"{sum(record.tokens for record in writer.records) + writer.filled:,} tokens")
                writer.close()
                n_bytes += int((meter.done - before) * 1e6)
            records += writer.records
            for counts in (*(record.skipped for record in writer.records), writer.left_over()):
                skipped.update(counts)
    skipped.update(bad.counts)
    bad.places.update(refused.places)
    manifest = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "split": split, "kind": config.dataset.kind,
        "dtype": pool.work.dtype.name, "vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint,
        "input": settings["hash of the input"], "dataset": input_settings(config, split),
        "settings": about["settings"], **totals(records),
        "skipped": dict(sorted(skipped.items())), "empty": bad.empty, "shards": [asdict(record) for record in records],
    }  # fmt: skip
    if not manifest["documents"]:
        raise UserError(f"{split}: all documents were skipped: {manifest['skipped']}")
    write_json(folder / MANIFEST, manifest)
    return Made(split, folder, manifest, time.monotonic() - started, n_bytes, bad)


def _begin(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Makes the folder and notes what it is for. -> the manifest where all is there already

    Raises UserError where the folder was made with other settings, or holds shards of nobody knows what."""
    noted = folder / SETTINGS
    is_begun = (folder / MANIFEST).exists() or any(folder.glob("part-*.safetensors"))
    if noted.exists() and is_begun:  # without a shard the note binds nobody: the first document may have been bad
        differing = differences(read_json(noted), settings)
        if differing:
            raise UserError(
                f"{shown(folder)} was made with other settings ({'; '.join(differing)}); choose another tokenize.path, "
                "or make it again with --restart, which moves the old one aside"
            )
        if (folder / MANIFEST).exists():
            return read_manifest(folder / MANIFEST)
    elif is_begun:
        raise UserError(
            f"{shown(folder)} holds shards but no {SETTINGS} that says how they were made; choose another "
            "tokenize.path, or make it again with --restart, which moves the old one aside"
        )
    make_folder(folder)
    write_json(noted, settings)
    return None


def _finished(folder: Path, part: int, about: dict[str, Any]) -> list[ShardRecord]:
    """Shards of a part that an earlier run has left. Raises UserError where one is not of these settings."""
    records: list[ShardRecord] = []
    while (path := folder / shard_name(part, len(records))).exists():
        said = read_about(path)
        if {key: said.get(key) for key in about} != about:
            raise UserError(f"{shown(path)} was made with other settings; make the shards again with --restart")
        records.append(finished_shard(path, sha256_file(path)))
    return records


def _of_part(config: Config, split: str, part: int, skip: int, bad: BadDocuments) -> Generator[Piece]:
    """The documents of one part, numbered, without the first `skip`."""
    ordinal = 0
    for number, document in enumerate(read_documents(config, split, on_bad=bad)):
        if number // BLOCK % config.tokenize.parts == part:
            if ordinal >= skip:
                yield Piece(ordinal, document.fields, document.where)
            ordinal += 1


def _pieces(documents: Iterable[Piece], meter: Meter) -> Iterator[list[Piece]]:
    """Some documents at a time: so many, or so much text."""
    piece: list[Piece] = []
    characters = 0
    for document in documents:
        piece.append(document)
        characters += sum(map(len, texts_of(document.fields)))
        if len(piece) == PIECE_DOCUMENTS or characters >= PIECE_CHARACTERS:
            yield piece
            meter.advance(characters / 1e6)
            piece, characters = [], 0
    if piece:
        yield piece
        meter.advance(characters / 1e6)


def verify(folder: Path) -> list[str]:
    """Checks a split's folder: every checksum, nothing missing, nothing foreign. -> what is wrong, a line each"""
    if not (folder / MANIFEST).exists():
        return [f"{shown(folder / MANIFEST)}: missing"]
    manifest = read_manifest(folder / MANIFEST)
    wrong = []
    known = {MANIFEST, SETTINGS}
    if not (folder / SETTINGS).exists():
        wrong.append(f"{shown(folder / SETTINGS)}: missing")
    elif sha256_json(read_json(folder / SETTINGS)) != manifest["settings"]:
        wrong.append(f"{shown(folder / SETTINGS)}: not the settings of the manifest")
    for entry in manifest["shards"]:
        path = folder / entry["file"]
        known.add(entry["file"])
        if not path.exists():
            wrong.append(f"{shown(path)}: missing")
        elif sha256_file(path) != entry["sha256"]:
            wrong.append(f"{shown(path)}: wrong, not the bytes of its checksum")
    for path in sorted(folder.iterdir()):
        # Indices of windows are made by training, beside the shards that they are of.
        shard = path.name.partition(".windows-")[0] + ".safetensors"
        if path.name not in known and shard not in known:
            wrong.append(f"{shown(path)}: foreign, not in the manifest")
    return wrong


def lengths_of(folder: Path, manifest: dict[str, Any]) -> Counter[int]:
    """How many documents have how many tokens, both sides of pairs counted."""
    counts: Counter[int] = Counter()
    for entry in manifest["shards"]:
        tensors = map_tensors(folder / entry["file"])
        lengths = np.diff(tensors["offsets"])
        if "target_offsets" in tensors:
            lengths = lengths + np.diff(tensors["target_offsets"])
        values, numbers = np.unique(lengths, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts


def prompts_and_references(config: Config, split: str) -> Iterator[tuple[str, str]]:
    """The raw text of each document that has tokens, in the order of the shards: what is asked, what is right."""
    layout = layout_of(config)
    for part in range(config.tokenize.parts):
        for piece in _of_part(config, split, part, 0, BadDocuments(config.tokenize.bad_documents)):
            if layout.kind == "messages":
                turns = piece.fields["messages"]
                answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
                last = answers[-1] if answers else len(turns)
                asked = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns[:last])
                yield asked, turns[last]["content"] if answers else ""
                continue
            try:
                yield sides(piece.fields, layout)
            except Refused:
                continue
