"""Reading shuffled windows of ready tokens: Liftoff beside a bare gather and the loaders that people use.

    pip install --no-deps -r benchmarks/data/requirements.txt
    python -m benchmarks.data.reading [--corpus FILE.bin | --corpus FOLDER_OF_SHARDS] [--seed 0] [--rounds 9]

Windows of 256 tokens, 16 to a batch, to int64. Without --corpus the tokens are random ones. All ways of reading are
processes with one thread that are started together and take turns, a moment each, so that they meet the same machine;
the figures are medians over the rounds. Memory is what each process holds of its own, mapped files left out. Prints a
table and writes benchmarks/results/data_reading.json.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.measuring import REPOSITORY, keep, run, show
from benchmarks.data.peers.readers import BATCH, DATASETS, LENGTH, LITDATA, READERS

DOCUMENT = 1000  # tokens: windows run over the borders, so it does not matter


def prepare(folder: Path, tokens: np.ndarray, peers: list[str]) -> None:
    """The same tokens for all: a flat file, one shard, four shards, and in the peers' own formats."""
    tokens.tofile(folder / "tokens.bin")
    write_tokenizer(folder / "tokenizer", int(tokens.max()) + 1)
    write_shards(folder / "one", folder / "tokenizer", tokens, 1)
    write_shards(folder / "four", folder / "tokenizer", tokens, 4)
    rows = len(tokens) // LENGTH
    if DATASETS in peers:
        import datasets
        import pyarrow

        ids = pyarrow.array(tokens[: rows * LENGTH].astype(np.int32))
        starts = pyarrow.array(np.arange(rows + 1, dtype=np.int32) * LENGTH)
        table = pyarrow.table({"input_ids": pyarrow.ListArray.from_arrays(starts, ids)})
        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(str(folder / "datasets"))
    if LITDATA in peers:
        command = [sys.executable, "-m", "benchmarks.data.peers.litdata_tokens", str(folder / "tokens.bin")]
        run([*command, str(folder / "litdata")])


def write_tokenizer(folder: Path, size: int) -> None:
    """As many tokens as there are ids; nothing is encoded with it."""
    from tokenizers import Tokenizer, models

    folder.mkdir()
    Tokenizer(models.WordLevel({str(number): number for number in range(size)}, "0")).save(
        str(folder / "tokenizer.json")
    )


def write_shards(folder: Path, tokenizer: Path, tokens: np.ndarray, shards: int) -> None:
    """A finished training split."""
    from configs.schema import Config
    from corpus.encoding import layout_of
    from corpus.shard_writer import ShardWriter
    from corpus.shards import FORMAT, FORMAT_VERSION, MANIFEST, SETTINGS, Tokens, sealed, totals
    from tokenizer.tokenizer import Tokenizer
    from utils.files import write_json

    loaded = Tokenizer.load(tokenizer)
    settings = layout_of(Config.model_validate({"tokenize": {"document_end": "none"}})).settings()
    target = folder / "train"
    target.mkdir(parents=True)
    writer = ShardWriter(target, 0, np.dtype(np.uint16), -(-len(tokens) // shards), {"format": FORMAT, "settings": ""})
    part = -(-len(tokens) // shards)
    for number, first in enumerate(range(0, len(tokens), part)):
        piece = tokens[first : first + part]
        lengths = np.diff([*range(0, len(piece), DOCUMENT), len(piece)])
        ordinals = np.arange(len(lengths)) + number * len(tokens)
        writer.add(Tokens(piece.astype(np.uint32), lengths, ordinals, ordinals, np.zeros((len(lengths), 3), np.int64)))
    writer.close()
    assert len(writer.records) == shards
    manifest = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "split": "train", "kind": "text", "dtype": "uint16",
        "vocab_size": loaded.vocab_size, "tokenizer": loaded.fingerprint, "input": "", "settings": "",
        **totals(writer.records), "skipped": {}, "empty": 0, "shards": [asdict(record) for record in writer.records],
    }  # fmt: skip
    write_json(target / SETTINGS, settings)
    write_json(target / MANIFEST, sealed(manifest))


def read_corpus(path: Path | None, tokens: int, seed: int) -> np.ndarray:
    """A flat file of uint16, the shards of a split, or random ids. -> (tokens,) uint16"""
    if path is None:
        return np.random.default_rng(seed).integers(0, 50_000, tokens, np.uint16)
    if path.is_file():
        return np.fromfile(path, np.uint16, tokens)
    from corpus.shards import ShardSet

    found = ShardSet.open(path.parent, path.name).shards
    return np.concatenate([shard.tokens for shard in found])[:tokens].astype(np.uint16)


def measure(folder: Path, names: list[str], seed: int, rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """-> of each way its speed in M tokens a second in each round, and MB of memory"""
    readers = {}
    for name in names:
        command = [sys.executable, "-m", "benchmarks.data.peers.readers", name, str(folder), str(seed)]
        readers[name] = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        until(readers[name], "ready")
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, reader in readers.items():
            reader.stdin.write(f"{seconds}\n")
            reader.stdin.flush()
            tokens, took = reader.stdout.readline().split()
            speeds[name].append(int(tokens) / float(took) / 1e6)
        print(f"round {number} of {rounds}", flush=True)
    found = {}
    for name, reader in readers.items():
        output, _ = reader.communicate()
        found[name] = {"speeds": speeds[name][1:], "memory": float(output.split()[-1])}  # the first one warms up
    return found


def until(reader: subprocess.Popen, word: str) -> None:
    """Reads what a process says until it is ready."""
    while (line := reader.stdout.readline()) != f"{word}\n":
        if not line:
            sys.exit("a way of reading ended before it began; see above")


def report(found: dict[str, dict[str, Any]], about: dict[str, Any]) -> None:
    """Prints the table and keeps the figures. A ratio is the median over the rounds of what stood side by side."""

    def ratio(one: str, other: str) -> float:
        pairs = zip(found[one]["speeds"], found[other]["speeds"], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    ours = "liftoff loader, 1 shard"
    rows, kept = [], {}
    for name in found:
        speed = statistics.median(found[name]["speeds"])
        kept[name] = {
            "million_tokens_per_second": round(speed, 1), "of_bare": ratio(name, "bare np.take"),
            "liftoff_loader_is_times_as_fast": ratio(ours, name), "peak_mb": round(found[name]["memory"]),
        }  # fmt: skip
        times, memory = kept[name]["liftoff_loader_is_times_as_fast"], f"{found[name]['memory']:,.0f}"
        rows.append((name, f"{speed:,.1f}", f"{kept[name]['of_bare']:.2f}", f"{times:.1f}", memory))
    title = f"windows of {LENGTH}, {BATCH} to a batch, {about['tokens']:,} tokens"
    show(title, ("", "M tokens/s", "of bare", "our loader is x", "MB"), rows)
    keep("data_reading", {**about, "readers": kept})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="flat uint16 ids, or the folder of a split's shards")
    parser.add_argument("--tokens", type=int, default=100_000_000, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    arguments = parser.parse_args()
    names = list(READERS)
    for peer, module in ((LITDATA, "litdata"), (DATASETS, "datasets")):
        if importlib.util.find_spec(module) is None:
            print(f"{peer} is not installed and is left out; see benchmarks/data/requirements.txt")
            names.remove(peer)
    with tempfile.TemporaryDirectory() as name:
        tokens = read_corpus(arguments.corpus, arguments.tokens, arguments.seed)
        prepare(Path(name), tokens, names)
        found = measure(Path(name), names, arguments.seed, arguments.rounds, arguments.seconds)
    about = {"tokens": len(tokens), "seed": arguments.seed, "rounds": arguments.rounds}
    report(found, {**about, "corpus": "random ids" if arguments.corpus is None else "given"})


if __name__ == "__main__":
    main()
