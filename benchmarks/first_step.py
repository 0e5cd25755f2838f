"""How long from the command to the first training step: Liftoff beside a Lightning + Hugging Face Llama script.

    python benchmarks/first_step.py [--runs 5]

The same shape of model (6 layers, width 384, windows of 256, 8 a step, as many tokens in the vocabulary), the same
tokens, no validation before the first step in either. The two run in turn. Prints seconds and the ratio, and writes
benchmarks/results/first_step.json.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

CONFIG = """
paths: {{data: {folder}/data, runs: {folder}/runs}}
dataset: {{source: synthetic, name: made, max_documents: 4000}}
tokenizer: {{vocab_size: 8192}}
data: {{max_seq_len: 256}}
model: {{arguments: {{width: 384, depth: 6, heads: 6, feedforward_width: 1024, max_seq_len: 256}}}}
trainer:
  {{max_steps: 1, global_batch_size: 8, precision: 32-true, validate_at_start: false,
   validate_every: null, validation_windows: 8}}
checkpoints: {{every: null, export: none}}
logging: {{every: 1, tensorboard: false, samples: 0}}
"""


def seconds_until(command: list[str], happened: Callable[[], bool]) -> float:
    """From the start of the command to the moment that `happened` says yes; the command then runs to its end."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
        while not happened():
            if process.poll() is not None and not happened():
                output.seek(0)
                sys.exit(f"{' '.join(command)} ended without a step:\n{output.read()}")
            time.sleep(0.005)
        seconds = time.monotonic() - started
        process.wait()
    return seconds


def has_line(path: Path, text: str) -> Callable[[], bool]:
    """Whether the file is there and holds the text."""
    return lambda: path.exists() and text in path.read_text()


def prepare(folder: Path) -> tuple[Path, int]:
    """Tokenizer and shards of synthetic text, the same tokens as a flat array for the peer. -> config, rows of the
    embedding"""
    import numpy as np

    from configs.loading import load_config
    from configs.places import shards_dir
    from corpus.shards import ShardSet
    from models.interface import padded_vocab
    from tokenizer.tokenizer import Tokenizer

    config = folder / "first_step.yaml"
    config.write_text(CONFIG.format(folder=folder))
    for script in (["-m", "tokenizer.train_hf_tokenizer"], ["tokenize_data.py"]):
        subprocess.run([sys.executable, *script, str(config)], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    loaded = load_config(config)
    shards = ShardSet.open(shards_dir(loaded), "train")
    np.save(folder / "tokens.npy", np.concatenate([shard.tokens for shard in shards.shards]).astype(np.uint16))
    return config, padded_vocab(Tokenizer.configured(loaded).vocab_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each, after one that does not count")
    arguments = parser.parse_args()
    ours, peer = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, rows = prepare(folder)
        for run in range(arguments.runs + 1):
            print(f"run {run} of {arguments.runs}", flush=True)
            train = [sys.executable, "train.py", str(config), f"name=run{run}"]
            mark = folder / f"peer{run}"
            theirs = [sys.executable, "benchmarks/peers/lightning_llama.py", str(folder / "tokens.npy"), "1", str(mark)]
            theirs.append(str(rows))
            ours.append(seconds_until(train, has_line(folder / f"runs/run{run}/metrics.jsonl", '"kind": "train"')))
            peer.append(seconds_until(theirs, has_line(mark, "step 1")))
    ours, peer = ours[1:], peer[1:]
    ratios = sorted(a / b for a, b in zip(ours, peer, strict=True))
    result = {
        "liftoff_seconds": statistics.median(ours),
        "lightning_llama_seconds": statistics.median(peer),
        "ratio_median": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "runs": arguments.runs,
        "machine": f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
    }
    print(json.dumps(result, indent=2))
    (REPOSITORY / "benchmarks/results/first_step.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
