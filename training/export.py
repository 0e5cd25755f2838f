"""A trained model and its tokenizer -> a directory that plain transformers opens, proved to by opening it.

    model, tokenizer -> files in a temporary folder -> a fresh process without Liftoff computes logits -> renamed

Forms are tried from the best to the least: a class of transformers, custom code beside the weights, weights alone.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from configs.schema import Config
from models.build import sized
from models.interface import TrainableModel
from models.language_model import LanguageModel
from models.plain import PlainModule
from tokenizer.tokenizer import Tokenizer
from training.export_forms import (
    Form,
    NotThisForm,
    Vocabulary,
    write_custom_code,
    write_huggingface,
    write_llama,
    write_weights_only,
)
from training.model_card import model_card
from utils.files import atomic_folder, shown
from utils.messages import UserError

TOLERANCE = 1e-4  # of the logits, float32, relative to the largest
ROUNDED = 5e-2  # the same where the model was trained in another precision: its angles were rounded to that
ROWS, LENGTH = 4, 48  # of the sample that logits are compared on
SAMPLE_TEXT = 'The quick brown fox jumps over the lazy dog.  It cost 3.50 euros,\n\tas everyone said:\n\n"naïve"! '
HOME = Path(__file__).resolve().parent.parent
Sample = list[int] | Tensor | dict[str, Tensor] | str | None
CHECK = Path(__file__).with_name("export_check.py")


@dataclass(frozen=True)
class Exported:
    """What was written, for the table at the end of a stage."""

    directory: Path
    what: str  # "a Llama, of transformers' own class"
    how_to_load: str  # a line of Python
    difference: float | None  # of logits to the model's own, relative to the largest; None: could not be compared
    notes: tuple[str, ...]  # what is missing or not as good as it might be


def export(
    model: TrainableModel,
    tokenizer: Tokenizer,
    config: Config,
    directory: str | Path,
    sample: Sample = None,
    measures: dict[str, Any] | None = None,
) -> Exported:
    """Writes `directory`, whole or not at all; what stood there is moved aside to `<directory>.<date and time>`.

    sample: real data on which logits are compared: token ids, a batch, or text. measures: for the model card, such as
    {"validation loss": 3.2, "step": 1000}. Weights are written as float32. Call it on one rank, outside of autocast.
    Raises UserError where the model could be written in no form.
    """
    directory = Path(directory)
    tolerance = TOLERANCE if all(weight.dtype == torch.float32 for weight in model.parameters()) else ROUNDED
    model = _copy_in_float32(model)
    vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    batch = _sample_batch(model, tokenizer, sample)
    refused: list[str] = []
    for write in _forms(model, config, vocabulary):
        form = None
        with suppress(NotThisForm), atomic_folder(directory) as folder:
            try:
                form = write(folder)
                problem = tokenizer.save(folder)
                difference, tokenizer_problem = _verify(form, folder, model, tokenizer, batch, tolerance)
            except NotThisForm as reason:
                refused.append(f"as {form.what} {reason}" if form else str(reason))
                raise
            notes = (*_told(refused, form), *filter(None, [problem or tokenizer_problem]))
            (folder / "README.md").write_text(
                model_card(config, form, model, vocabulary, notes, measures or {}), encoding="utf-8"
            )
            if directory.exists():
                os.rename(directory, f"{directory}.{time.strftime('%Y%m%d-%H%M%S')}")
            return Exported(directory, form.what, how_to_load(form, directory), difference, notes)
    raise UserError(f"{shown(directory)} was not written, the checkpoints are whole: {'; '.join(refused)}")


def how_to_load(form: Form, directory: str | Path) -> str:
    """A line of Python."""
    if form.auto_class is None:
        return f'safetensors.torch.load_file("{directory}/model.safetensors")'
    custom = ", trust_remote_code=True" if form.custom_code else ""
    return f'transformers.{form.auto_class}.from_pretrained("{directory}"{custom})'


def _forms(model: TrainableModel, config: Config, vocabulary: Vocabulary) -> list[Callable[[Path], Form]]:
    """Ways to write the model, best first."""
    rows = model.facts.vocab_size
    if isinstance(model, LanguageModel):
        inner, dress = model.backbone, {"vocab_size": rows, "tie": model.head is None, "tokens": model.tokens}
        best = [lambda folder: write_llama(model, folder, vocabulary)]
    elif isinstance(model, PlainModule):
        inner, dress, best = model.inner, {"vocab_size": rows, "tokens": model.tokens}, []
    else:
        return [
            lambda folder: write_huggingface(model.inner, model.facts, folder, vocabulary),
            lambda folder: write_huggingface(model.inner, model.facts, folder, vocabulary, code=False),
        ]
    arguments = sized(type(inner), rows) | getattr(model, "arguments", config.model.arguments)
    return [
        *best,
        lambda folder: write_custom_code(model, inner, arguments, dress, folder, vocabulary),
        lambda folder: write_weights_only(model, inner, arguments, folder, vocabulary),
    ]


def _told(refused: list[str], form: Form) -> list[str]:
    """Of the reasons why better forms did not do, those that a reader wants to know."""
    expected = "only models.transformer.Transformer is a Llama"
    return [f"{form.what}, because: {reason}" for reason in refused if reason != expected]


def _copy_in_float32(model: TrainableModel) -> TrainableModel:
    """The same model on the CPU, ready to be compared; the one that was trained is left as it is."""
    device = next(model.parameters()).device
    try:
        copied = copy.deepcopy(model.to("cpu")).float().eval()  # a copy on the device might not fit beside the model
    finally:
        model.to(device)
    for module in copied.modules():  # set by activation checkpointing, and still of the model that was copied
        module.__dict__.pop("forward", None)
    attention = getattr(getattr(getattr(copied, "inner", None), "config", None), "_attn_implementation", None)
    if attention not in (None, "sdpa", "eager"):  # others need a GPU
        copied.inner.set_attn_implementation("sdpa")
    return copied


def _sample_batch(model: TrainableModel, tokenizer: Tokenizer, sample: Sample) -> dict[str, Tensor]:
    """Ids of real text in full rows (B, T), for both sides of an encoder-decoder."""
    if isinstance(sample, dict):
        # Masks and positions are left out: what is at padding differs between ways to compute it, and is never used.
        names = [name for name in sample if name not in ("targets", "attention_mask", "position_ids", "places")]
        return {name: sample[name][:ROWS, :LENGTH].cpu() for name in names}
    ids = tokenizer.encode(sample or SAMPLE_TEXT) if isinstance(sample, str | None) else sample
    ids = torch.as_tensor(ids, dtype=torch.int64).flatten()
    if not len(ids):
        raise UserError("the sample that the export is checked on has no tokens")
    length = min(LENGTH, model.facts.max_positions or LENGTH)
    rows = min(ROWS, -(-len(ids) // length))
    ids = ids.repeat(-(-rows * length // len(ids)))[: rows * length].view(rows, length)
    if not model.facts.encoder_decoder:
        return {"input_ids": ids}
    start = torch.full_like(ids[:, :1], model.facts.decoder_start_id or 0)
    return {"input_ids": ids, "decoder_input_ids": torch.cat((start, ids.flip(0)[:, :-1]), dim=1)}


def _verify(
    form: Form, folder: Path, model: TrainableModel, tokenizer: Tokenizer, batch: dict[str, Tensor], tolerance: float
) -> tuple[float | None, str | None]:
    """Opens the folder in a fresh process. -> how far its logits are off, and what is wrong with its tokenizer.

    Raises NotThisForm where it does not open, or computes something else.
    """
    if form.auto_class is None:
        return None, None
    try:
        with torch.no_grad():
            wanted = model.logits(batch).float()
    except (ValueError, TypeError) as problem:  # no logits, or it needs more than ids
        raise NotThisForm(f"its logits cannot be compared: {problem}") from None
    ids = batch["input_ids"].tolist()
    special = [tokenizer.token(index) for index in tokenizer.special_ids]
    texts = [SAMPLE_TEXT, *(tokenizer.decode(row) for row in ids)]
    texts = [text for text in texts if not any(token in text for token in special)]  # transformers makes ids of these
    questions = {
        "auto_class": form.auto_class,
        "batch": {name: rows.tolist() for name, rows in batch.items()},
        "texts": texts,
        "generate": model.facts.causal and not model.facts.encoder_decoder and _has_room(model, batch),
    }
    got, answers = _ask_fresh_process(folder, questions)
    if got.shape != wanted.shape:
        raise NotThisForm(f"its logits come out with shape {tuple(got.shape)} instead of {tuple(wanted.shape)}")
    difference = float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    if not difference <= tolerance:
        raise NotThisForm(f"its logits come out different, by {difference:.1e} of the largest")
    if answers["first"] is not None:
        first = wanted[:, -1, : tokenizer.vocab_size].argmax(-1).tolist()
        if answers["first"] != first:
            raise NotThisForm(f"generate begins with tokens {answers['first']} instead of {first}")
    return difference, _tokenizer_problem(answers, [tokenizer.encode(text) for text in texts])


def _has_room(model: TrainableModel, batch: dict[str, Tensor]) -> bool:
    longest = model.facts.max_positions
    return longest is None or batch["input_ids"].shape[1] < longest


def _tokenizer_problem(answers: dict[str, Any], wanted: list[list[int]]) -> str | None:
    if answers["ids"] is None:
        return f"AutoTokenizer cannot open the tokenizer: {answers['tokenizer_error']}"
    differ = sum(got != ids for got, ids in zip(answers["ids"], wanted, strict=True))
    return f"AutoTokenizer gives other ids than Liftoff for {differ} of {len(wanted)} sample texts" if differ else None


def _ask_fresh_process(folder: Path, questions: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Runs export_check.py as a stranger would: no Liftoff on the path, no network, an empty cache of custom code."""
    with tempfile.TemporaryDirectory(prefix="liftoff-export-") as place:
        asked, answered = Path(place) / "questions.json", Path(place) / "answers"
        asked.write_text(json.dumps(questions), encoding="utf-8")
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(
                path for path in paths if path and not HOME.is_relative_to(Path(path).resolve())
            ),
            "HF_HUB_OFFLINE": "1",
            "HF_MODULES_CACHE": str(Path(place) / "modules"),
            "CUDA_VISIBLE_DEVICES": "",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-P", str(CHECK.resolve()), str(folder.resolve()), str(asked), str(answered)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = ([line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"])[-1]
            raise NotThisForm(f"it does not open in a fresh process: {last.strip()[:500]}")
        answers = json.loads(answered.with_suffix(".json").read_text(encoding="utf-8"))
        return load_file(answered.with_suffix(".safetensors"))["logits"], answers
