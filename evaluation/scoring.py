"""A model and a test set -> scores of its predictions and of what it writes, through `test_step` of model.py.

    test_step -> sums of nats, targets and correct ones; texts -> measures, metrics -> results.json, predictions.jsonl

Everything is a sum and a count to the end, so it does not depend on the batch size.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as L

from configs import places
from configs.command_line import to_generate
from configs.schema import Config, Decoding
from corpus.documents import input_settings
from corpus.lineage import identity_of
from corpus.sources import source_of
from evaluation.metrics import Metric, Score, load_metrics, one_line
from evaluation.opening import Opened, find_model, open_model
from evaluation.results import RESULTS, earlier, label, made_from, move_aside
from models.build import refusals
from models.decoding import DecodingOptions, cut_at_stop
from models.documents import check_documents
from tokenizer.tokenizer import Tokenizer
from training.launch import make_trainer
from training.precision import Hardware, hardware
from utils.files import atomic_folder, shown, write_json
from utils.hashing import sha256_file, sha256_json
from utils.imports import did_you_mean
from utils.messages import Meter, UserError, amount, duration, info, progress, table, warn


def score(
    config: Config, data_class: type, training_class: type, restart: bool = False, typed: str = "CONFIG"
) -> dict[str, Any]:
    """Scores what `inference` in the config names, and writes it into the run's folder. -> results.json

    data_class, training_class: those of dataset.py and model.py. restart: even where it is done already. typed: the
    config as the user named it, for the next command.
    Raises UserError where there is no such model, split or metric.
    """
    settings = config.inference
    check_split(config)
    metrics = load_metrics(settings.metrics)
    options = decoding_options(settings.decoding, "inference.decoding")
    place = find_model(config, settings.checkpoint)
    folder = places.run_dir(config) / "inference" / f"{settings.split}-{label(settings.checkpoint)}"
    identity = made_from(
        model=place.identity(),
        shards=identity_of_data(config),
        config=config.model_dump(include={"inference", "data", "objective", "dataset", "seed"}),
        precision=one_device(config).precision,
    )
    done = None if restart else earlier(folder, identity)
    if done is not None:
        info(f"scored already in {shown(folder)}; --restart scores again")
        show(done, folder, to_generate(config, typed))
        return done
    opened = open_model(place, config)
    if config.data.document_masking:
        with refusals():
            check_documents(opened.model, config.data.max_seq_len)
    data = data_class(config, opened.tokenizer, opened.model.facts)
    results, texts = evaluated(config, opened, data, training_class, metrics, options)
    results["lineage"] = {"weights": place.identity(), "tokenizer": opened.tokenizer.fingerprint}
    if config.data.tokens != "on_the_fly":
        results["lineage"]["shards"] = identity_of(data.windows(settings.split).shards.manifest)
    write(folder, {**results, "made_from": identity}, texts)
    show(results, folder, to_generate(config, typed))
    return results


def identity_of_data(config: Config) -> str:
    """Changes when what is scored does: of a run without shards the documents, else their manifest.

    Raises UserError where there are none."""
    split = config.inference.split
    if config.data.tokens == "on_the_fly":
        source = source_of(config, split)
        return sha256_json([input_settings(config, split), source and source.sizes()])
    manifest = places.split_dir(config, split) / "manifest.json"
    if not manifest.exists():
        raise UserError(f"no {shown(manifest)}; make it with: python tokenize_data.py CONFIG")
    return sha256_file(manifest)


def check_split(config: Config) -> None:
    """Raises UserError where inference.split names none. A mixture has no test split of its own, but its sources do."""
    split, known = config.inference.split, places.scored_splits(config)
    if split not in known:
        near = did_you_mean(split, known) if split != "test" else ""
        raise UserError(f"inference.split: no split '{split}'{near or '; there are ' + ', '.join(known)}")


def evaluated(
    config: Config, opened: Opened, data: Any, training_class: type, metrics: list[Metric], options: DecodingOptions
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the test. -> results.json, and an entry for each text that was written"""
    settings, started = config.inference, time.monotonic()
    if data.generates and not opened.model.facts.causal:
        raise UserError(f"inference.generate: {shown(opened.where)} sees both sides of a token: it cannot write")
    writing = arguments_of_generate(opened.tokenizer, options) if data.generates else None
    training = training_class(opened.model, config, decoding=writing)
    logged = run_test(config, data, training)
    results = {
        "run": config.name,
        "split": settings.split,
        "checkpoint": shown(opened.where),
        "step": opened.step,
        **measures(training.scores[settings.split], data, settings.split, settings.max_samples),
        **({"logged": logged} if logged else {}),
    }
    texts = predictions(training.generated, data, opened.tokenizer, options) if writing else []
    if writing:
        columns = [text["prediction"] for text in texts], [text["reference"] for text in texts]
        scores = [one for metric in metrics for one in metric.score(*columns)] if texts else []
        results["text"] = {"predictions": len(texts), **{one.name: entry_of(one) for one in scores}}
        results["decoding"] = settings.decoding.model_dump()
        expected = min(len(data.samples), settings.max_samples or len(data.samples))
        if [text["index"] for text in texts] != list(range(expected)):
            warn(f"test_step has written {len(texts)} texts for {expected} samples; the scores are of those alone")
    return results | {"precision": one_device(config).precision, "seconds": round(time.monotonic() - started, 3)}, texts


def decoding_options(settings: Decoding, where: str) -> DecodingOptions:
    """The config's section -> options. Raises UserError where its keys contradict each other."""
    try:
        return DecodingOptions(**settings.model_dump())
    except ValueError as problem:
        raise UserError(f"{where}: {problem}") from problem


def arguments_of_generate(tokenizer: Tokenizer, options: DecodingOptions) -> dict[str, Any]:
    """What `models.decoding.generate` is called with, beside model and prompts."""
    return {
        "options": options,
        "eos_id": tokenizer.eos_id,
        "vocab_limit": tokenizer.vocab_size,
        "decode": tokenizer.decode,
    }


def one_device(config: Config) -> Hardware:
    """Evaluation runs on one device, in float32 unless trainer.precision says otherwise: the same for any batch."""
    precision = "32-true" if config.trainer.precision == "auto" else config.trainer.precision
    return hardware(config.trainer.model_copy(update={"devices": 1, "num_nodes": 1, "precision": precision}))


def run_test(config: Config, data: Any, training: Any) -> dict[str, float]:
    """Runs test_step over the test set. -> what an edited one has logged beside the loss"""
    # Arguments for Lightning's Trainer are for training: a profiler, for example.
    plain = config.model_copy(update={"trainer": config.trainer.model_copy(update={"lightning": {}})})
    trainer = make_trainer(plain, one_device(config), [])
    with progress(f"scoring {config.inference.split}", unit="batches") as bar:
        trainer.callbacks.append(Progress(bar))
        trainer.test(training, datamodule=data, verbose=False)
    own = {f"{config.inference.split}/loss"}
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name not in own}


class Progress(L.Callback):
    """Lightning's test loop -> our bar."""

    def __init__(self, bar: Meter) -> None:
        self.bar = bar

    def on_test_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        """Now it is known how many batches there are."""
        self.bar.total = sum(trainer.num_test_batches)

    def on_test_batch_end(self, *_: Any) -> None:
        """One more is done."""
        self.bar.advance(1)


def measures(scores: dict[str, float], data: Any, split: str, max_samples: int | None) -> dict[str, Any]:
    """scores: loss (nats a target), perplexity, accuracy, targets -> these, and what is by word and by byte."""
    if not scores["targets"]:
        raise UserError(f"nothing in the split {split} is scored")
    n_windows = len(data.windows(split))
    scored = min(n_windows, max_samples or n_windows)
    text = data.text_counts(split, scored)
    nats = scores["loss"] * scores["targets"]
    reason, units = text.why_not, text.words + text.lines
    if reason is None and not text.bytes:
        reason = "the manifest counts no bytes of text"
    by_text = {
        "perplexity_per_word": None if reason or nats / units > 700 else math.exp(nats / units),
        "bits_per_byte": None if reason else nats / math.log(2) / text.bytes,
    }
    return {
        "measures": {
            "loss": scores["loss"],
            "perplexity": scores["perplexity"] if math.isfinite(scores["perplexity"]) else None,
            **by_text,
            "token_accuracy": scores["accuracy"],
        },
        "why_null": reason,
        "sums": {
            "nats": nats,
            "targets": scores["targets"],
            "correct": round(scores["accuracy"] * scores["targets"]),
            "windows": scored,
            **({} if reason else {"bytes": text.bytes, "words": text.words, "lines": text.lines}),
        },
    }


def predictions(
    generated: list[tuple[int, Any]], data: Any, tokenizer: Tokenizer, options: DecodingOptions
) -> list[dict[str, Any]]:
    """What was written, beside what was right; in the order of the test set, each sample once."""
    rows = []
    for index, written in sorted(dict(generated).items()):
        rows.append(
            {
                "index": index,
                "prompt": data.prompt(index),
                "prediction": cut_at_stop(tokenizer.decode(written.ids), options.stop_strings),
                "reference": data.reference(index),
                "tokens": len(written.ids),
                "stopped": written.reason,
                "log_probability": written.log_probability,
            }
        )
    return rows


def entry_of(one: Score) -> dict[str, Any] | float:
    """A score for results.json."""
    return one.value if one.signature is None else {"score": one.value, "signature": one.signature}


def write(folder: Path, results: dict[str, Any], texts: list[dict[str, Any]]) -> None:
    """The folder, whole or not at all. predictions.txt and references.txt are what sacrebleu's command line reads."""
    move_aside(folder)
    with atomic_folder(folder) as temporary:
        write_json(temporary / RESULTS, results)
        if texts:
            lines = {
                "predictions.jsonl": [json.dumps(text, ensure_ascii=False) for text in texts],
                "predictions.txt": [one_line(text["prediction"]) for text in texts],
                "references.txt": [one_line(text["reference"]) for text in texts],
            }
            for name, content in lines.items():
                # newline: what a text holds stays as it is on every system.
                with open(temporary / name, "w", encoding="utf-8", newline="\n") as file:
                    file.writelines(line + "\n" for line in content)


def show(results: dict[str, Any], folder: Path, next_commands: list[str]) -> None:
    """The table at the end."""
    step = "" if results["step"] is None else f", step {results['step']}"
    names = {
        "loss": "loss (nats per token)",
        "perplexity": "perplexity per token",
        "perplexity_per_word": "perplexity per word",
        "bits_per_byte": "bits per byte",
        "token_accuracy": "token accuracy",
    }
    rows = [("checkpoint", results["checkpoint"] + step)]
    for name, title in names.items():
        value = results["measures"][name]
        left_out = name in ("perplexity_per_word", "bits_per_byte") and results["why_null"]
        number = f"— ({results['why_null']})" if left_out else "too large" if value is None else f"{value:,.4f}"
        rows.append((title, number))
    rows.append(("tokens scored", amount(results["sums"]["targets"])))
    for name, entry in results.get("text", {}).items():
        if isinstance(entry, dict):
            rows.append((name, f"{entry['score']:.2f}   {entry['signature']}"))
        else:
            rows.append((name, amount(entry) if name == "predictions" else f"{entry:.4f}"))
    rows += [(name, f"{value:.4f}") for name, value in results.get("logged", {}).items()]
    rows += [("seconds", duration(results["seconds"])), ("written to", shown(folder))]
    table(f"Scores of {results['run']} on {results['split']}", rows, next_commands)
