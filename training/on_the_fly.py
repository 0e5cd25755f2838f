"""Documents that are tokenised while training reads them -> the steps of a run, and what a checkpoint keeps of them.

Worker w of a rank makes the steps w, w + W, w + 2 W, … of its rank from a stream of its own; without workers the rank
itself is the only one. With each step comes the position of the stream after it: those of the last steps are the state.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from configs.schema import Config
from corpus.documents import EMPTY, Reader, input_settings
from corpus.encoding import Encoder, layout_of
from corpus.held import HeldShards
from corpus.packing import Packing, Windows
from corpus.sources import source_of
from corpus.streaming import Position, Recipe, Stream, goes_on
from tokenizer.tokenizer import Tokenizer
from training.loader import as_it_is, outlives_signals
from training.loader import pinned as in_pinned_memory
from training.ranks import gathered
from utils.hashing import sha256_json
from utils.messages import UserError, info, warn

Steps = Callable[[int, Windows], Any]  # number of the step, its windows -> what the loader gives


class OnTheFly:
    """The training data of a run without shards: its steps, and what is to be known when it goes on."""

    def __init__(
        self, config: Config, tokenizer: Tokenizer, packing: Packing, check: Callable[[HeldShards], None]
    ) -> None:
        """check: raises UserError where tokens are of no use. Raises UserError where the split has no source."""
        source = source_of(config, "train")
        if source is None:
            raise UserError("the config names no documents for the split 'train'; see dataset.train_path")
        data, dataset = config.data, config.dataset
        self.recipe = Recipe(
            source, "train", Reader(config), Encoder(tokenizer, layout_of(config)), packing,
            config.seed if data.seed is None else data.seed, data.shuffle, data.shuffle_buffer,
            config.tokenize.bad_documents, dataset.max_documents, dataset.max_bytes, check,
        )  # fmt: skip
        self.facts = sha256_json([input_settings(config, "train"), source.sizes(), data.shuffle_buffer])
        self.num_workers = data.num_workers
        self.skipped: Counter[str] = Counter()  # rows of all ranks without a document, at the last checkpoint
        self._saved: list[dict[str, Any]] | None = None
        self._loader: StreamLoader | None = None

    def loader(
        self, step: Steps, share: int, steps: range, rank: int, ranks: int, pinned: bool = False
    ) -> "StreamLoader":
        """step: number of a step, its windows -> what the loader gives. share: windows of one step of this rank."""
        info(promise(ranks, self.num_workers))
        self._loader = StreamLoader(
            self.recipe, step, share, steps, (rank, ranks, self.num_workers), self._saved, pinned
        )
        return self._loader

    def state(self, steps: int) -> list[dict[str, Any]] | None:
        """Of every rank what it needs to go on when so many steps of the run are done. All ranks must call it."""
        if self._loader is None:
            return self._saved
        states = gathered(self._loader.state(steps))
        self.skipped = sum((Counter(of_rank["skipped"]) for of_rank in states), Counter())
        return states

    def restore(self, saved: list[dict[str, Any]] | None) -> None:
        """saved: what `state` gave."""
        self._saved = saved


def promise(ranks: int, workers: int) -> str:
    """What a run on the fly can promise, in one line."""
    return (
        f"tokens on the fly, in {ranks} x {max(1, workers)} readers: every document once in each epoch, by one of "
        "them. A run that is stopped goes on with exactly the samples that would have followed, as long as devices and "
        "data.num_workers stay the same; with others it leaves out no document, but gives some a second time"
    )


class StreamLoader:
    """Steps start, …, stop - 1 of one rank. It has a length, so Lightning fetches none ahead.

    saved: what `state` gave of every rank, of a run that goes on; None where it begins.
    """

    def __init__(
        self, recipe: Recipe, step: Steps, share: int, steps: range, place: tuple[int, int, int],
        saved: list[dict[str, Any]] | None = None, pinned: bool = False,
    ) -> None:  # fmt: skip
        """share: windows of a step. place: rank, ranks, worker processes of each (0: the rank itself)."""
        self.recipe, self.step, self.share, self.start, self.stop = recipe, step, share, steps.start, steps.stop
        self.rank, self.ranks, self.num_workers = place
        self.pinned = pinned
        self.readers = max(1, self.num_workers)
        self.first = self._positions(saved)
        self.noted: dict[int, Position] = {}  # step -> of its reader, after it
        self.skipped = [Counter(position.skipped) for position in self.first]  # by reader
        self.told = {EMPTY}

    def _positions(self, saved: list[dict[str, Any]] | None) -> list[Position]:
        """Where each reader of this rank begins."""
        if saved is None:
            return [Position()] * self.readers
        before = [position for of_rank in saved for position in of_rank["readers"]]
        if (len(saved), len(saved[0]["readers"])) != (self.ranks, self.readers):
            warn(
                f"the run was read by {len(saved)} x {len(saved[0]['readers'])} readers (devices x data.num_workers), "
                f"now by {self.ranks} x {self.readers}: no document is left out, but the samples are not those that "
                "would have followed" + ("" if len(before) == self.ranks * self.readers else ", and some come twice")
            )
        return goes_on(before, self.ranks * self.readers)[self.rank * self.readers :][: self.readers]

    def state(self, steps: int) -> dict[str, Any]:
        """What to go on from when so many steps of the run are done, and no more have been asked for."""
        readers = []
        for reader, position in enumerate(self.first):
            last = steps - 1 - (steps - 1 - reader) % self.readers  # the last step that it has made
            readers.append(asdict(position if last < self.start else self.noted[last]))
        return {"readers": readers, "skipped": dict(sum(self.skipped, Counter()))}

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0:
            made: Any = self.made(0, range(self.start, self.stop))
        else:
            # Its own generator: by default a loader draws a seed from the global one, and shifts all that follows.
            made = DataLoader(
                _Worker(self), batch_size=None, num_workers=self.num_workers, collate_fn=as_it_is,
                generator=torch.Generator(), multiprocessing_context="fork", worker_init_fn=outlives_signals(),
            )  # fmt: skip
        for one in made:
            if isinstance(one, UserError):
                raise one
            number, position, bad, batches = one
            self.noted[number], self.skipped[number % self.readers] = position, bad.counts
            self.noted.pop(number - 2 * self.readers, None)
            for reason in bad.places.keys() - self.told:
                self.told.add(reason)
                warn(f"documents are skipped while training reads them; the first: {bad.places[reason][0]}")
            yield in_pinned_memory(batches) if self.pinned else batches

    def made(self, reader: int, numbers: range) -> Iterator[Any]:
        """(step, position of the reader after it, what it has skipped, its batches), or the UserError that ends it."""
        try:
            stream = Stream(
                self.recipe, self.rank * self.readers + reader, self.ranks * self.readers, self.first[reader]
            )
            for number in numbers:
                batches = self.step(number, stream.take(self.share))
                yield number, stream.position, stream.bad, batches
        except UserError as error:  # a DataLoader would wrap it into another
            yield error


class _Worker(IterableDataset):
    def __init__(self, loader: StreamLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread for each process
        loader, worker = self.loader, get_worker_info()
        first = loader.start + worker.id  # the workers take turns, beginning with the first
        return loader.made(first % worker.num_workers, range(first, loader.stop, worker.num_workers))
