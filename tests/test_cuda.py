"""On a GPU: documents in one row stay apart, batches come in pinned memory, and a killed run goes on as if it was not.

Where there is no GPU all of it is skipped; the same is tested on CPUs elsewhere.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.documents import ROUNDING
from tests.small_data import small_tokenizer, write_documents
from tests.test_document_masking import EXACT, batch_of, build, exact, prepared, spans_of
from training.loader import Loader

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
FLEX = ("llama", "qwen3", "mistral")  # encoders are refused with it

__all__ = ["prepared"]  # a fixture


def on_gpu(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.cuda() for name, values in batch.items()}


@pytest.mark.parametrize("name", [*EXACT, *(f"{name}, flex_attention" for name in FLEX)])
@torch.no_grad()
def test_documents_in_a_row_of_several_get_the_logits_that_they_get_alone(prepared: Any, name: str) -> None:
    if name.endswith("flex_attention"):
        objective, model_type, arguments = EXACT[name.partition(",")[0]]
        # Its kernels take heads of 16 or more.
        arguments = arguments | {"head_dim": 16} if "head_dim" in arguments else arguments
        model = build(objective, model_type, arguments=arguments, attention="flex_attention", window=48)
        assert model.inner.config._attn_implementation == "flex_attention"
    else:
        objective, model = exact(name)
    batch = on_gpu(batch_of(prepared, objective, model))
    model.cuda()
    assert batch["documents"].max() >= 3
    logits = model.logits(batch)
    inner = getattr(model, "inner", None)
    for span in spans_of(batch):
        ids = {key: batch[key][row : row + 1, begin:end] for key, (row, begin, end) in span.items()}
        alone = model.logits(ids) if inner is None else inner(**ids).logits
        row, begin, end = span.get("decoder_input_ids", span["input_ids"])
        assert (logits[row, begin:end] - alone[0]).abs().max() <= ROUNDING * alone.abs().max()
    # And what stands in one of them moves nothing in another.
    row, begin, end = spans_of(batch)[1]["input_ids"]
    changed = batch["input_ids"].clone()
    changed[row, begin:end] = 17
    other = model.logits({**batch, "input_ids": changed})
    before = spans_of(batch)[0]
    row, begin, end = before.get("decoder_input_ids", before["input_ids"])
    torch.testing.assert_close(other[row, begin:end], logits[row, begin:end], rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_pinned_memory(workers: int) -> None:
    def items(numbers: range) -> list[list[dict[str, Tensor]]]:
        return [[{"input_ids": torch.full((4, 8), number)}] for number in numbers]

    found = [batch["input_ids"] for item in Loader(items, 0, 5, workers, pinned=True) for batch in item]
    assert all(values.is_pinned() for values in found)
    assert [int(values.cuda(non_blocking=True)[0, 0]) for values in found] == list(range(5))


def start(folder: Path, name: str, accelerator: str, **sections: Any) -> subprocess.Popen[str]:
    path = folder / f"{name}.yaml"
    files = {f"{split}_path": str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    settings = {
        "paths": {"data": str(folder / "data"), "runs": str(folder / "runs")},
        "dataset": {"source": "files", **files},
        "tokenizer": {"path": str(folder / "tokenizer")},
        "tokenize": {"path": str(folder / "tokens"), "num_workers": 0},
        "model": {"backbone": "models.transformer.Transformer", "arguments": {"width": 64, "depth": 2, "heads": 4}},
        "trainer": {
            "max_steps": 60, "global_batch_size": 8, "micro_batch_size": 4, "precision": "32-true",
            "accelerator": accelerator, "devices": 1, "validate_every": 20,
        },
        "checkpoints": {"every": 6},
        "logging": {"every": 1},
        **sections,
    }  # fmt: skip
    path.write_text(json.dumps(settings))
    if not (folder / "tokens").exists():
        subprocess.run([sys.executable, "tokenize_data.py", str(path)], cwd=ROOT, check=True, capture_output=True)
    command = [sys.executable, "train.py", str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def measures(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / "runs" / name / "metrics.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [row for row in rows if row["kind"] == "train"]


def losses(folder: Path, name: str) -> dict[int, float]:
    """By step; what was lost with a kill is done again, and the last one counts."""
    return {row["step"]: row["loss"] for row in measures(folder, name)}


def steps(folder: Path, name: str) -> list[int]:
    """In the order in which they were done."""
    return [row["step"] for row in measures(folder, name)]


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    small_tokenizer(folder / "tokenizer")
    for split, number in {"train": 3000, "validation": 60}.items():
        write_documents(folder / f"{split}.jsonl", number)
    return folder


@pytest.mark.parametrize("tokens", ["shards", "on_the_fly"])
def test_a_run_that_is_killed_goes_on_with_the_same_losses(folder: Path, tokens: str) -> None:
    data = {"max_seq_len": 32, "tokens": tokens, "document_masking": True}
    finished(start(folder, f"{tokens}_whole", "gpu", data=data))
    expected = losses(folder, f"{tokens}_whole")
    assert len(expected) == 60
    process = start(folder, f"{tokens}_killed", "gpu", data=data)
    while len(losses(folder, f"{tokens}_killed")) < 20:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(losses(folder, f"{tokens}_killed")) < 60
    finished(start(folder, f"{tokens}_killed", "gpu", data=data))
    assert losses(folder, f"{tokens}_killed") == pytest.approx(expected, rel=1e-6)
    assert steps(folder, f"{tokens}_killed").count(1) == 1  # it did not begin anew
    if tokens == "shards":
        finished(start(folder, "on_cpu", "cpu", data=data))
        assert losses(folder, "on_cpu") == pytest.approx(expected, rel=1e-3)  # the same samples, in the same order
