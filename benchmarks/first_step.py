"""How long from the command to the first training step: Liftoff beside a Lightning + Hugging Face Llama script.

    python benchmarks/first_step.py [--runs 5]

The same shape of model (6 layers, width 384, windows of 256, 8 a step, vocabulary 8192), the same tokens, no validation
before the first step in either. The two run in turn. Prints seconds and the ratio, and writes
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
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

CONFIG = """
paths: {{data: {folder}/data, runs: {folder}/runs}}
dataset: {{source: synthetic, name: made, max_documents: 4000}}
tokenizer: {{vocab_size: 8192}}
data: {{max_seq_len: 256}}
model: {{arguments: {{width: 384, depth: 6, heads: 6, feedforward_width: 1024, max_seq_len: 256}}}}
trainer: {{max_steps: 1, global_batch_size: 8, precision: 32-true, validate_at_start: false, validate_every: null}}
checkpoints: {{every: null, export: none}}
logging: {{every: 1, tensorboard: false, samples: 0}}
"""


def seconds_until(command: list[str], text: str) -> float:
    """From the start of the command to the first line of its output that holds `text`."""
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if seconds is None and text in line:
            seconds = time.monotonic() - started
    process.wait()
    if seconds is None:
        sys.exit(f"{' '.join(command)} never printed {text!r}:\n{''.join(lines)}")
    return seconds


def prepare(folder: Path) -> Path:
    """Tokenizer and shards of synthetic text, and the same tokens as a flat array for the peer."""
    import numpy as np

    from configs.loading import load_config
    from configs.places import shards_dir
    from corpus.shards import ShardSet

    config = folder / "first_step.yaml"
    config.write_text(CONFIG.format(folder=folder))
    for script in (["-m", "tokenizer.train_hf_tokenizer"], ["tokenize_data.py"]):
        subprocess.run([sys.executable, *script, str(config)], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    shards = ShardSet.open(shards_dir(load_config(config)), "train")
    np.save(folder / "tokens.npy", np.concatenate([shard.tokens for shard in shards.shards]).astype(np.uint16))
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each, after one that does not count")
    arguments = parser.parse_args()
    ours, peer = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = prepare(folder)
        for run in range(arguments.runs + 1):
            print(f"run {run} of {arguments.runs}", flush=True)
            train = [sys.executable, "train.py", str(config), f"name=run{run}"]
            theirs = [sys.executable, "benchmarks/peers/lightning_llama.py", str(folder / "tokens.npy"), "1"]
            for times, command in ((ours, train), (peer, theirs)):
                times.append(seconds_until(command, "step 1"))
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
