"""One way of reading shuffled windows of ready tokens, timed when it is told to; started by benchmarks/data/reading.py.

    python -m benchmarks.data.peers.readers NAME FOLDER SEED

FOLDER: what reading.py has prepared. Prints `ready`; then, for each line of standard input (seconds), how many tokens
it read and in how many seconds; at its end the most memory of its own that it held, in MB. One thread.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

BATCH, LENGTH = 16, 256  # windows, tokens
LITDATA, DATASETS = "litdata", "datasets, torch format"


def bare(folder: Path, seed: int) -> Iterator[Any]:
    """The least that must be done: rows of a memory map, in a random order made beforehand."""
    rows = flat(folder)
    rows = rows[: len(rows) // LENGTH * LENGTH].reshape(-1, LENGTH)
    order = np.random.default_rng(seed).permutation(len(rows))
    while True:
        for first in range(0, len(order) - BATCH, BATCH):
            yield np.take(rows, order[first : first + BATCH], axis=0).astype(np.int64)


def liftoff_source(shards: str) -> Callable[[Path, int], Iterator[Any]]:
    """Places -> windows, many at a time, as `dataset.py` asks for them."""

    def batches(folder: Path, seed: int) -> Iterator[Any]:
        from dataset import PLACES_AT_ONCE, TOKENS_AT_ONCE

        training = liftoff_data(folder / shards, seed).training
        at_once = TOKENS_AT_ONCE // (BATCH * (LENGTH + 1)) * BATCH
        block = PLACES_AT_ONCE // at_once * at_once
        start = 0
        while True:
            chosen = training.at(np.arange(start, start + block))
            for first in range(0, block, at_once):
                tokens = training.gather(chosen.part(slice(first, first + at_once))).tokens
                yield from (torch.from_numpy(tokens[row : row + BATCH]) for row in range(0, at_once, BATCH))
            start += block

    return batches


def liftoff_loader(shards: str) -> Callable[[Path, int], Iterator[Any]]:
    """What a training run iterates over: inputs, targets and places of each step."""

    def batches(folder: Path, seed: int) -> Iterator[Any]:
        data = liftoff_data(folder / shards, seed)
        data.total_steps = 1 << 40
        return iter(data.train_dataloader())

    return batches


def liftoff_data(folder: Path, seed: int) -> Any:
    """dataset.py on the shards of a folder."""
    from configs.schema import Config
    from dataset import LanguageModelData
    from models.interface import ModelFacts
    from tokenizer.tokenizer import Tokenizer

    config = Config.model_validate(
        {
            "seed": seed,
            "paths": {"runs": str(folder / "runs")},
            "dataset": {"source": "files", "train_path": str(folder.parent / "tokens.bin")},
            "tokenizer": {"path": str(folder.parent / "tokenizer")},
            "tokenize": {"path": str(folder), "document_end": "none"},
            "data": {"max_seq_len": LENGTH},
            "trainer": {"global_batch_size": BATCH},
        }
    )
    data = LanguageModelData(config, Tokenizer.configured(config), ModelFacts())
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)
    return data


def nanogpt(folder: Path, seed: int) -> Iterator[Any]:
    """nanoGPT's get_batch: random offsets with replacement, a memory map opened anew for each batch, row by row."""
    chance = torch.Generator().manual_seed(seed)
    while True:
        tokens = flat(folder)
        starts = torch.randint(len(tokens) - LENGTH, (BATCH,), generator=chance).tolist()
        inputs = [torch.from_numpy(tokens[i : i + LENGTH].astype(np.int64)) for i in starts]
        targets = [torch.from_numpy(tokens[i + 1 : i + 1 + LENGTH].astype(np.int64)) for i in starts]
        yield torch.stack(inputs), torch.stack(targets)


def litdata(folder: Path, seed: int) -> Iterator[Any]:
    """litdata's StreamingDataset over chunks of tokens, with its own loader in this process."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    dataset = StreamingDataset(
        str(folder / "litdata"), item_loader=TokensLoader(block_size=LENGTH), shuffle=True, drop_last=True, seed=seed
    )
    while True:
        yield from StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0, drop_last=True)


def datasets_torch(folder: Path, seed: int) -> Iterator[Any]:
    """Hugging Face datasets with rows of input_ids in torch format, under torch's own loader."""
    from datasets import load_from_disk

    dataset = load_from_disk(str(folder / "datasets")).with_format("torch")
    chance = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, generator=chance, drop_last=True)


def flat(folder: Path) -> np.ndarray:
    """All tokens, mapped into memory."""
    return np.memmap(folder / "tokens.bin", np.uint16, mode="r")


READERS: dict[str, Callable[[Path, int], Iterator[Any]]] = {
    "bare np.take": bare,
    "liftoff source, 1 shard": liftoff_source("one"),
    "liftoff source, 4 shards": liftoff_source("four"),
    "liftoff loader, 1 shard": liftoff_loader("one"),
    "liftoff loader, 4 shards": liftoff_loader("four"),
    "nanoGPT get_batch": nanogpt,
    LITDATA: litdata,
    DATASETS: datasets_torch,
}


def own_memory() -> float:
    """MB of this process that no file stands behind: mapped tokens are the system's to drop."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    torch.set_num_threads(1)
    name, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    batches = READERS[name](folder, seed)
    next(batches)
    peak = own_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, done, started = float(line), 0, time.perf_counter()
        while (took := time.perf_counter() - started) < seconds:
            for _ in range(16):
                next(batches)
            done += 16
        print(done * BATCH * LENGTH, took, flush=True)
        peak = max(peak, own_memory())
    print(peak, flush=True)


if __name__ == "__main__":
    main()
