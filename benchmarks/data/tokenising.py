"""Tokenising, disk to disk: Liftoff beside `datasets.map` + `save_to_disk`, and beside the bare encoder.

    python -m benchmarks.data.tokenising CORPUS.jsonl TOKENIZER [--workers 2] [--runs 3] [--engines gigatoken]

CORPUS.jsonl: documents with a field "text", 100 MB or more. TOKENIZER: a directory with a tokenizer.json, or a
SentencePiece .model (which has no peer in `datasets`). All of them run in turn, as processes of their own; seconds of
Liftoff and of `datasets` are of the whole command, its start included; those of the bare encoder, which has all
documents in memory and writes nothing, are of encoding alone, and are compared with what Liftoff says of its stage
(reading, encoding, writing to disk). Writes benchmarks/results/data_tokenising_<name>.json.
"""

import argparse
import importlib.util
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data.measuring import keep, run, show

OFFLINE = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
WITHOUT = """
import runpy, sys
from tokenizer import fast_bpe
fast_bpe.installed = lambda: None
sys.argv = ["tokenize_data.py", *sys.argv[1:]]
runpy.run_path("tokenize_data.py", run_name="__main__")
"""


class Contest:
    """One corpus, one tokenizer, so many workers."""

    def __init__(self, corpus: Path, tokenizer: Path, workers: int, folder: Path) -> None:
        self.corpus, self.tokenizer, self.workers, self.folder = corpus, tokenizer, workers, folder
        self.megabytes = corpus.stat().st_size / 1e6
        self.watched = False  # for memory: a run of its own, since watching takes time

    def ours(self, engine: str) -> tuple[float, float, float]:
        """-> MB per second, peak MB, MB of text per second of the stage alone"""
        out = self.folder / "ours"
        shutil.rmtree(out, ignore_errors=True)
        config = self.folder / "config.yaml"
        config.write_text(
            f"dataset: {{source: files, train_path: {self.corpus}}}\ntokenizer: {{path: {self.tokenizer}}}\n"
            f"tokenize: {{path: {out}, num_workers: {self.workers}, max_document_bytes: 100000000}}\n"
        )
        script = ["-c", WITHOUT] if engine == "tokenizers" else ["tokenize_data.py"]
        cost = run([sys.executable, *script, str(config)], watched=self.watched)
        said = re.search(r"speed .*, ([\d.,]+) MB/s", cost.output)
        assert said, cost.output
        return self.megabytes / cost.seconds, cost.peak_mb, float(said[1].replace(",", ""))

    def datasets_map(self) -> tuple[float, float]:
        """-> MB per second, peak MB"""
        out = self.folder / "peer"
        shutil.rmtree(out, ignore_errors=True)
        peer = ["benchmarks/data/peers/datasets_map.py", str(self.corpus), str(self.tokenizer), str(out)]
        cost = run([sys.executable, *peer, str(self.workers)], OFFLINE, self.watched)
        return self.megabytes / cost.seconds, cost.peak_mb

    def bare(self, engine: str) -> float:
        """-> MB of text per second of encoding alone"""
        peer = ["benchmarks/data/peers/bare_encoder.py", str(self.corpus), str(self.tokenizer), engine]
        cost = run([sys.executable, *peer, str(self.workers)], watched=False)
        seconds, n_bytes = map(float, cost.output.split()[-2:])
        return n_bytes / 1e6 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["gigatoken", "tokenizers"])
    parser.add_argument("--name", default="", help="of the results; by default that of the corpus")
    arguments = parser.parse_args()
    is_model = arguments.tokenizer.suffix == ".model"
    engines = ["sentencepiece"] if is_model else arguments.engines
    if "gigatoken" in engines and importlib.util.find_spec("gigatoken") is None:
        print("gigatoken is not installed and is left out; pip install -r requirements-fast.txt")
        engines.remove("gigatoken")
    with tempfile.TemporaryDirectory() as name:
        contest = Contest(arguments.corpus.absolute(), arguments.tokenizer.absolute(), arguments.workers, Path(name))
        took: dict[str, list[float]] = {}
        peaks: dict[str, float] = {}
        for number in range(arguments.runs + 1):
            contest.watched = number == arguments.runs
            for engine in engines:
                speed, peaks[f"liftoff, {engine}"], stage = contest.ours(engine)
                if not contest.watched:
                    took.setdefault(f"liftoff, {engine}", []).append(speed)
                    took.setdefault(f"its stage alone, {engine}", []).append(stage)
                    took.setdefault(f"bare {engine}", []).append(contest.bare(engine))
            if not is_model:
                speed, peaks["datasets.map"] = contest.datasets_map()
                if not contest.watched:
                    took.setdefault("datasets.map", []).append(speed)
            print(f"{'memory' if contest.watched else f'run {number + 1} of {arguments.runs}'}", flush=True)
    report(took, peaks, engines, arguments, contest.megabytes)


def report(
    took: dict[str, list[float]], memory: dict[str, float], engines: list[str], arguments: argparse.Namespace, megabytes: float
) -> None:
    """Prints the table and keeps the figures."""
    speeds = {name: statistics.median(runs) for name, runs in took.items()}
    ratios: dict[str, Any] = {}
    for engine in engines:
        ratios[f"stage, {engine} / bare {engine}"] = speeds[f"its stage alone, {engine}"] / speeds[f"bare {engine}"]
        if "datasets.map" in speeds:
            ratios[f"liftoff, {engine} / datasets.map"] = speeds[f"liftoff, {engine}"] / speeds["datasets.map"]
    rows = [[name, f"{speed:.1f}", f"{memory[name]:,.0f}" if name in memory else "-"] for name, speed in speeds.items()]
    show(
        f"Tokenising {megabytes:.0f} MB of JSON lines, {arguments.workers} workers, median of {arguments.runs}",
        ["", "MB/s", "peak MB"], rows,
    )  # fmt: skip
    show("Ratios", ["", "times"], [[name, f"{ratio:.2f}"] for name, ratio in ratios.items()])
    keep(
        f"data_tokenising_{arguments.name or arguments.corpus.stem}",
        {
            "megabytes": round(megabytes, 1), "workers": arguments.workers, "runs": arguments.runs,
            "mb_per_second": {name: round(speed, 2) for name, speed in speeds.items()},
            "peak_mb": {name: round(peak) for name, peak in memory.items()},
            "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
