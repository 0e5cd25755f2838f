"""Our Transformer in train.py beside Hugging Face's Llama in a bare PyTorch loop: the same losses, step by step.

    python benchmarks/llama_parity.py CONFIG [--steps 200]

CONFIG: a tokenised experiment with model.backbone models.transformer.Transformer. Both run in 32-true. The bare loop
starts from the same weights and takes the windows in the same order; nothing else of Liftoff is in it. Prints the
largest difference of the losses and both times, and writes benchmarks/results/llama_parity.json.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))


def overrides_for(folder: str, steps: int) -> list[str]:
    """What both runs have in common, whatever the config says."""
    return [
        f"paths.runs={folder}", "name=parity", f"trainer.max_steps={steps}", "trainer.precision=32-true",
        "trainer.validate_at_start=false", "trainer.validate_every=null", "trainer.validation_windows=8",
        "logging.every=1", "logging.tensorboard=false", "logging.samples=0",
        "checkpoints.every=null", "checkpoints.export=none",
    ]  # fmt: skip


def bare_loop(config_path: str, overrides: list[str], steps: int) -> tuple[list[float], float]:
    """Hugging Face's Llama, torch's AdamW, a cosine by hand. -> the loss of each step, seconds"""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from configs.loading import load_config
    from dataset import LanguageModelData
    from evaluation.opening import special_ids
    from models.build import build_model
    from models.llama_format import config_of, to_llama
    from tokenizer.tokenizer import Tokenizer

    config = load_config(config_path, overrides)
    tokenizer = Tokenizer.configured(config)
    ours = build_model(
        **config.model.model_dump(),
        vocab_size=tokenizer.vocab_size,
        special_ids=special_ids(tokenizer),
        seed=config.seed,
    )
    backbone = ours.backbone
    theirs = LlamaForCausalLM(LlamaConfig(**config_of(backbone, tied=config.model.tie_embeddings)))
    missing, unexpected = theirs.load_state_dict(to_llama(backbone), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    theirs.tie_weights()
    data = LanguageModelData(config, tokenizer, ours.facts)
    data.total_steps = steps
    embedding = theirs.get_input_embeddings().weight
    groups = [
        {
            "params": [p for p in theirs.parameters() if p.ndim > 1 and p is not embedding],
            "weight_decay": config.optimizer.weight_decay,
        },
        {"params": [p for p in theirs.parameters() if p.ndim <= 1 or p is embedding], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.optimizer.lr, fused=True, **config.optimizer.arguments)
    warmup = (
        round(config.schedule.warmup_ratio * steps)
        if config.schedule.warmup_steps is None
        else config.schedule.warmup_steps
    )
    losses = []
    started = time.monotonic()
    for step, microbatches in enumerate(data.train_dataloader(), start=1):
        if step > steps:
            break
        count = sum(int((batch["targets"] != -100).sum()) for batch in microbatches)
        total = 0.0
        for batch in microbatches:
            logits = theirs(input_ids=batch["input_ids"], use_cache=False).logits
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum")
            (nats / count).backward()
            total += nats.item() / count
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), config.trainer.clip)
        progress = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
        fraction = min(step / max(1, warmup), 1.0) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * fraction
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = overrides_for(folder, arguments.steps)
        started = time.monotonic()
        subprocess.run([sys.executable, "train.py", arguments.config, *overrides], cwd=REPOSITORY, check=True)
        seconds = time.monotonic() - started
        lines = [json.loads(line) for line in (Path(folder) / "parity/metrics.jsonl").read_text().splitlines()]
        ours = [line["loss"] for line in lines if line["kind"] == "train"]
        theirs, bare_seconds = bare_loop(arguments.config, overrides, arguments.steps)
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    result = {
        "steps": len(ours),
        "largest_difference": max(differences),
        "first_loss": ours[0],
        "last_loss": ours[-1],
        "train_py_seconds": seconds,
        "bare_loop_seconds": bare_seconds,
    }
    print(json.dumps(result, indent=2))
    (REPOSITORY / "benchmarks/results/llama_parity.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
