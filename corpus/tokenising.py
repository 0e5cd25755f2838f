"""The documents of a config -> token shards and their manifests; what is finished is never done again.

Worker processes read and encode units of the source (see inputs.py), and what they send back is written in its order.
Shards appear whole or not at all, and each says up to where it and those before it have used up the source: after a
kill the same command goes on from there, and the folder is byte for byte what it would have been. With `parts`, each
has a run of neighbouring units, about as many bytes as the others, and any machine can make any of them.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.places import shards_dir, splits
from configs.schema import Config
from corpus import lines, measuring
from corpus.documents import BadDocuments, Reader, input_settings, read_documents
from corpus.encoding import Encoder, Refused, layout_of, sides
from corpus.inputs import ROW, Source, address_of, unit_of
from corpus.parts import (
    about,
    begin,
    chained,
    finished_part,
    join,
    part_file,
    part_units,
    shards_there,
    unchanged,
    write_part,
)  # fmt: skip
from corpus.raw import is_stored, is_streamed
from corpus.shard_writer import ShardWriter
from corpus.shards import FORMAT_VERSION, SETTINGS, Skipped, Tokens
from corpus.sources import sources
from corpus.tasks import Result, Work, tasks
from corpus.workers import Workers
from tokenizer import differing
from tokenizer.tokenizer import Tokenizer
from utils.compiled import why_not
from utils.files import shown
from utils.messages import Meter, UserError, info, progress

COMPILED = (lines.SOURCE, measuring.SOURCE, differing.SOURCE)


@dataclass
class Made:
    """What tokenising a split came to."""

    split: str
    folder: Path
    manifest: dict[str, Any] | None  # None: parts of it are still to be made
    seconds: float  # 0: it was there already
    n_bytes: int  # of text, encoded now, with the splits that are cut from the same source
    bad: BadDocuments
    missing: list[int] = field(default_factory=list)  # parts


def settings_of(config: Config, split: str, tokenizer: Tokenizer, source: Source) -> dict[str, Any]:
    """All that the bytes of a split's shards depend on; of the input its sizes, for its hash is made as it is read."""
    names = ("parts", "shard_tokens", "max_document_bytes", "max_tokens")
    return {
        **layout_of(config).settings(),
        **{f"tokenize.{name}": getattr(config.tokenize, name) for name in names},
        "tokenizer's fingerprint": tokenizer.fingerprint,
        "dataset": input_settings(config, split),
        "hash of the input's sizes": source.sizes(),
        "format version": FORMAT_VERSION,
    }


def tokenise(config: Config, tokenizer: Tokenizer, restart: bool = False) -> list[Made]:
    """All splits that the config has, or the part tokenize.part of each. restart: folders that are there are moved
    aside first.

    Raises UserError for what the user can mend: other settings than those of a folder, bad documents, a full disk."""
    _check_parts(config, restart)
    known = sources(config)
    for split in splits(config):
        if not any(split in source.shares for source in known):
            info(f"{split}: the config names no documents for it")
        elif restart:
            _move_aside(shards_dir(config) / split)
    if not known:
        raise UserError("the config names no documents for any split; see dataset.path and dataset.train_path")
    wanted = config.tokenize.num_workers
    encoder = Encoder(tokenizer, layout_of(config))
    work = Work(known, Reader(config), encoder)
    info(f"encoding by {tokenizer.fast}")  # and what encodes is ready before worker processes are forked,
    problems = list(filter(None, map(why_not, COMPILED)))  # as is what can be compiled
    if problems:
        info(f"lines are read and words counted by Python: {problems[0]}; compiled, both take a third of the time")
    with Workers(work, cores() if wanted is None else wanted) as pool:
        return [made for number in range(len(known)) for made in _Run(config, number, pool).make()]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_parts(config: Config, restart: bool) -> None:
    tokenize, dataset = config.tokenize, config.dataset
    if restart and tokenize.part is not None:
        raise UserError(
            f"--restart with tokenize.part={tokenize.part} would move aside what the other tasks have made; move "
            f"{shown(shards_dir(config))} aside by hand, once, and run the tasks without --restart"
        )
    if tokenize.part is not None and tokenize.part >= tokenize.parts:
        raise UserError(
            f"tokenize.part={tokenize.part}, but there are tokenize.parts={tokenize.parts}, counted from 0; give all "
            "tasks the same tokenize.parts"
        )
    caps = {"dataset.max_documents": dataset.max_documents, "dataset.max_bytes": dataset.max_bytes}
    if is_stored(config):
        caps = {}  # the raw text was cut off when it was made
    capped = [name for name, value in {**caps, "tokenize.max_tokens": tokenize.max_tokens}.items() if value is not None]
    if tokenize.parts > 1 and capped:
        raise UserError(
            f"tokenize.parts={tokenize.parts} with {capped[0]}: only who reads all documents in order knows where that "
            "is reached; use tokenize.parts=1, or leave the cap out"
        )


def _move_aside(folder: Path) -> None:
    if folder.exists():
        aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        folder.rename(aside)
        info(f"{folder.name}: what was in {shown(folder)} is now in {shown(aside)}")


class _Run:
    """The splits of one source on their way to shards."""

    def __init__(self, config: Config, number: int, pool: Workers) -> None:
        self.config, self.number, self.pool = config, number, pool
        work: Work = pool.work
        self.source, self.reader, self.encoder = work.sources[number], work.reader, work.encoder
        self.tokenizer = self.encoder.tokenizer
        names = [split for split in splits(config) if split in self.source.shares]
        self.settings = {split: settings_of(config, split, self.tokenizer, self.source) for split in names}
        self.folder = {split: shards_dir(config) / split for split in names}
        self.bad = {split: BadDocuments("skip") for split in names}
        self.n_bytes = 0
        self.ahead = 0.0  # megabytes that were counted of a unit before its end

    def make(self) -> list[Made]:
        """Every split: made now, or there already."""
        started = time.monotonic()
        there = {split: begin(self.folder[split], settings) for split, settings in self.settings.items()}
        for split, manifest in there.items():
            if manifest is not None:
                unchanged(self.source, self.folder[split], manifest)
        open_ = [split for split, manifest in there.items() if manifest is None]
        chosen = self.config.tokenize.part
        for part in range(self.config.tokenize.parts) if chosen is None else [chosen]:
            self._make_part(part, open_)
        joined = {split: self._joined(split) if there[split] is None else (there[split], []) for split in there}
        seconds = time.monotonic() - started  # of all splits together, as their bytes are
        return [
            Made(
                split, self.folder[split], manifest, seconds if split in open_ else 0.0, self.n_bytes, self.bad[split],
                missing,
            )
            for split, (manifest, missing) in joined.items()
        ]  # fmt: skip

    def _joined(self, split: str) -> tuple[dict[str, Any] | None, list[int]]:
        """-> the manifest, if all parts are there; else which are not"""
        folder, parts = self.folder[split], range(self.config.tokenize.parts)
        missing = [part for part in parts if not part_file(folder, part).exists()]
        if missing:
            return None, missing
        settings, bad = self.settings[split], self.bad[split]
        return join(folder, split, settings, self.config, self.tokenizer, self.source, bad), []

    def _make_part(self, part: int, names: list[str]) -> None:
        units = part_units(self.source, part, self.config.tokenize.parts)
        names = [split for split in names if finished_part(self.folder[split], part, self.settings[split]) is None]
        if not names:
            return
        writers, since = {}, {}
        for split in names:
            finished = shards_there(self.folder[split], part, self.settings[split])
            if finished:
                info(f"{split}: going on after {finished[-1].read_documents:,} documents" + self._of(part))
            noted = about(self.settings[split])
            writers[split] = ShardWriter(
                self.folder[split], part, self.encoder.dtype, self.config.tokenize.shard_tokens, noted, finished
            )
            since[split] = writers[split].read_until or address_of(units.start)
        caps = {split: _Cap(self.config, writer) for split, writer in writers.items()}
        start = unit_of(min(since.values()))
        inputs = {start: self._input_before(units, start, writers)}
        total = sum(map(self.source.unit_bytes, units)) / 1e6
        before = sum(self.source.unit_bytes(unit) for unit in range(units.start, start)) / 1e6
        named = f"tokenising {', '.join(names)}" + self._of(part)
        with progress(named, max(total, before) or None, unit="MB") as meter:
            meter.begin_at(before)
            todo = tasks(self.source, self.number, range(start, units.stop), self.reader, since)
            with closing(todo):  # files that are being read are closed at once when something goes wrong
                for result in self.pool.map(todo):
                    self._add(result, writers, caps, inputs, meter)
                    if all(cap.full for cap in caps.values()):
                        break
            for writer in writers.values():
                writer.close()
        for split, writer in sorted(writers.items(), key=lambda one: one[0] == "train"):  # others may end with train
            stop = caps[split].unit if caps[split].full else units.stop
            read = range(units.start, stop), inputs[stop]
            write_part(self.folder[split], part, self.settings[split], writer, *read)

    def _of(self, part: int) -> str:
        return f" (part {part} of {self.config.tokenize.parts})" if self.config.tokenize.parts > 1 else ""

    def _input_before(self, units: range, start: int, writers: dict[str, ShardWriter]) -> str:
        """The hash of the part's units before `start`: as a shard has it, or made anew where the files are newer."""
        # A shard without documents, of a part that has none, says nothing.
        noted = {unit_of(writer.read_until): writer.input for writer in writers.values() if writer.read_until}
        begun = min((self.folder[split] / SETTINGS).stat().st_mtime for split in writers)
        if not self.source.changed_since(begun):
            return noted.get(start, "")
        made = {units.start: ""}
        for unit in range(units.start, max(noted, default=start)):
            made[unit + 1] = chained(made[unit], [self.source.digest(unit)])
        if any(made[unit] != value for unit, value in noted.items()):
            folder = shown(self.folder[next(iter(writers))])
            raise UserError(
                f"the input of {folder} has changed since it was begun (another hash of the input); make it again with "
                "--restart, which moves the old one aside"
            )
        return made[start]

    def _add(
        self, result: Result, writers: dict[str, ShardWriter], caps: dict[str, "_Cap"], inputs: dict[int, str],
        meter: Meter,
    ) -> None:  # fmt: skip
        for unit, digest in result.digests:
            inputs[unit + 1] = chained(inputs[unit], [digest])
        for split in sorted(result.tokens, key=lambda name: name != "train"):
            tokens = caps[split].cut(result.tokens[split])
            if split == "train" and caps[split].full and is_streamed(self.config):
                for other in caps.values():  # what is cut from the same stream ends with it, and is as much smaller
                    other.end(caps[split].limit)
            self.bad[split].empty += len(tokens.empty)
            for one in sorted(tokens.skipped):
                self._note(self.bad[split], one)
            writers[split].add(tokens, inputs)
        wanted = {max(inputs), *(cap.unit for cap in caps.values() if cap.full)}
        for unit in inputs.keys() - wanted:  # what is still to come lies beyond
            del inputs[unit]
        self.n_bytes += result.n_bytes
        self._advance(result, meter)
        meter.update(f"{sum(writer.tokens_done for writer in writers.values()):,} tokens")

    def _advance(self, result: Result, meter: Meter) -> None:
        """Units count when they end; until then, of one that comes in pieces, the text that there was so far."""
        if result.digests and meter.total:
            ended = sum(self.source.unit_bytes(unit) for unit, _ in result.digests) / 1e6
            meter.done += max(0.0, ended - self.ahead)
            self.ahead = 0.0
        else:
            meter.done += result.n_bytes / 1e6
            self.ahead += result.n_bytes / 1e6
        if meter.total:
            meter.done = min(meter.done, meter.total)

    def _note(self, bad: BadDocuments, one: Skipped) -> None:
        if not one.n_bytes and self.config.tokenize.bad_documents == "stop":  # what was read and refused may be passed
            bad = BadDocuments("stop")
        # To find a place may take reading up to it: only those that are told are looked up.
        known = bad.wants_place(one.reason)
        row = one.address & ((1 << ROW) - 1)
        bad.add(self.source.where(unit_of(one.address), row) if known else "", one.reason, one.detail)


class _Cap:
    """Cuts a split off at dataset.max_documents, dataset.max_bytes and tokenize.max_tokens."""

    def __init__(self, config: Config, writer: ShardWriter) -> None:
        applies = not is_stored(config)  # whose raw text was cut off when it was made
        self.max_documents = config.dataset.max_documents if applies else None
        self.max_bytes = config.dataset.max_bytes if applies else None
        self.max_tokens = config.tokenize.max_tokens
        self.documents, self.n_bytes, self.tokens = writer.read_documents, writer.read_bytes, writer.tokens_done
        self.full, self.unit, self.limit = False, 0, 0  # and the unit and address where that came about
        self.stop: int | None = None  # address at which reading ends although the split is not full

    def end(self, address: int) -> None:
        """Nothing from this address on is taken."""
        if not self.full:
            self.full, self.unit, self.stop = True, unit_of(address), address

    def cut(self, tokens: Tokens) -> Tokens:
        """What still fits, in order."""
        if self.max_documents is self.max_bytes is self.max_tokens is None:
            return tokens
        if self.stop is not None:
            tokens = tokens.before(self.stop)
        elif self.full:
            return tokens.before(0)
        refused = [(one.address, one.n_bytes, 0) for one in tokens.skipped if one.n_bytes]
        kept = np.stack([tokens.addresses, tokens.n_bytes, tokens.sizes()], 1)
        rows = np.concatenate([kept, np.array(refused, np.int64).reshape(-1, 3)])
        rows = rows[np.argsort(rows[:, 0])]
        documents = self.documents + np.arange(1, len(rows) + 1)
        n_bytes, n_tokens = self.n_bytes + rows[:, 1].cumsum(), self.tokens + rows[:, 2].cumsum()
        beyond = np.zeros(len(rows), bool)
        for count, most in ((documents, self.max_documents), (n_bytes, self.max_bytes), (n_tokens, self.max_tokens)):
            if most is not None:
                beyond |= count > most
        if beyond.any():
            self.full = True
            self.limit = int(rows[int(np.argmax(beyond)), 0])
            self.unit = unit_of(self.limit)
            return tokens.before(self.limit)
        if len(rows):
            self.documents, self.n_bytes, self.tokens = int(documents[-1]), int(n_bytes[-1]), int(n_tokens[-1])
        return tokens


def prompts_and_references(config: Config, split: str) -> Iterator[tuple[str, str]]:
    """The raw text of each document that has tokens, in the order of the shards: what is asked, what is right."""
    layout = layout_of(config)
    for document in read_documents(config, split):
        if layout.kind == "messages":
            turns = document.fields["messages"]
            answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
            last = answers[-1] if answers else len(turns)
            asked = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns[:last])
            yield asked, turns[last]["content"] if answers else ""
            continue
        try:
            yield sides(document.fields, layout)
        except Refused:
            continue
