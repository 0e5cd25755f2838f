"""configs/quickstart.yaml -> every stage in turn; at the end a table of what was made, where, how fast, and what next.

make quickstart
python -m tools.quickstart
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from configs import places
from configs.loading import load_config
from configs.schema import Config
from utils.files import read_json, shown
from utils.messages import UserError, amount, duration, info, size, table
from utils.run_directory import RunDirectory, read_metrics

CONFIG = "configs/quickstart.yaml"
# What is said of a stage, and the command.
STAGES = {
    "text": "-m data_setup.download_dataset",
    "tokenizer": "-m tokenizer.train_hf_tokenizer",
    "token shards": "tokenize_data.py",
    "model": "train.py",
    "scores": "inference.py",
    "completions": "generation.py",
}
COMPLETIONS = 3


def main() -> None:
    """Runs the stages; each knows what it has done already."""
    config = load_config(places.REPOSITORY / CONFIG)
    seconds = {}
    for stage, door in STAGES.items():
        info(f"\n$ python {door} {CONFIG}")
        started = time.monotonic()
        code = run([sys.executable, *door.split(), CONFIG])
        if code:
            sys.exit(code)
        seconds[stage] = time.monotonic() - started
    show(config, seconds)


def run(command: list[str]) -> int:
    """-> exit code; after a Ctrl-C, which the stage has had too, once it has saved"""
    with subprocess.Popen(command, cwd=places.REPOSITORY) as stage:
        try:
            return stage.wait()
        except KeyboardInterrupt:
            return stage.wait()


def show(config: Config, seconds: dict[str, float]) -> None:
    """The closing table."""
    run = RunDirectory(places.run_dir(config))
    scored = run.inference / "test-best"
    written = run.generation / "quickstart_prompts-best"
    made = {
        "text": (places.raw_dir(config), text_made(places.raw_dir(config))),
        "tokenizer": (places.tokenizer_dir(config), f"{config.tokenizer.vocab_size:,} tokens"),
        "token shards": (places.shards_dir(config), shards_made(places.shards_dir(config))),
        "model": (run.model, model_made(run)),
        "scores": (scored, scores_made(scored / "results.json")),
        "completions": (written, "texts.txt, to be read"),
        "curves": (run.pictures, "curves.png"),
    }
    rows = [
        (name, f"{duration(seconds[name]) if name in seconds else '':>7}  {shown(where):<50}  {what}")
        for name, (where, what) in made.items()
    ]
    rows.append(("in all", f"{duration(sum(seconds.values())):>7}"))
    info("\nThe model goes on with Python (a prompt ▸ what it wrote):")
    for prompt, text in completions(written / "texts.jsonl")[:COMPLETIONS]:
        info("\n    " + f"{prompt}▸{text.rstrip()}".replace("\n", "\n    "))
    table(
        "What the quickstart made",
        rows,
        [
            "source .venv/bin/activate",
            f"python generation.py {CONFIG} generation.decoding.temperature=0.8 generation.samples_per_prompt=2",
            f"cp {CONFIG} configs/user_configs/mine.yaml    # every setting: configs/default_config.yaml",
            "python train.py configs/user_configs/mine.yaml 'model.arguments={width: 320, depth: 6, heads: 5}'",
        ],
    )


def text_made(folder: Path) -> str:
    """How much raw text there is."""
    n_bytes = sum(file.stat().st_size for file in folder.glob("*.jsonl"))
    return f"{size(n_bytes)} of Python's own source code"


def shards_made(folder: Path) -> str:
    """How many tokens there are, in all splits."""
    shards = [shard for manifest in folder.glob("*/manifest.json") for shard in read_json(manifest)["shards"]]
    return f"{amount(sum(shard['tokens'] for shard in shards))} tokens"


def model_made(run: RunDirectory) -> str:
    """How long the run was, and how fast; a second line for what it learned."""
    lines = read_metrics(run.metrics)
    training = [line for line in lines if line["kind"] == "train"]
    validation = [line["loss"] for line in lines if line["kind"] == "validation"]
    speed = sum(line["tokens_per_second"] for line in training) / len(training)
    return f"{training[-1]['step']:,} steps, {amount(speed)} tokens/s; loss {validation[0]:.2f} → {min(validation):.2f}"


def scores_made(results: Path) -> str:
    """The two scores that a reader can compare with other models'."""
    scores = read_json(results)["measures"]
    return f"perplexity {scores['perplexity']:.1f}, {scores['bits_per_byte']:.2f} bits per byte on the test split"


def completions(texts: Path) -> list[tuple[str, str]]:
    """-> (prompt, what was written)"""
    entries = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    return [(entry["prompt"], entry["text"]) for entry in entries]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
