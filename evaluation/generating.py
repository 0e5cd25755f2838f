"""A model and a prompts file -> texts, in jsonl and to be read; a single prompt is also streamed to the terminal."""

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from configs import places
from configs.schema import Config, Decoding
from evaluation.opening import Opened, find_model, open_model
from evaluation.prompts import Prompt, encode_prompts, read_prompts
from evaluation.results import RESULTS, earlier, label, made_from, move_aside
from evaluation.scoring import arguments_of_generate, decoding_options, one_device
from evaluation.writing import Writer
from models.build import refusals
from models.decoding import Generated, cut_at_stop
from tokenizer.tokenizer import Tokenizer
from utils.files import atomic_folder, shown, write_json
from utils.hashing import sha256_file
from utils.messages import UserError, amount, console, duration, info, table, warn

SHOWN = 3  # texts printed at the end
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def write_texts(config: Config, restart: bool = False, typed: str = "CONFIG") -> dict[str, Any]:
    """Goes on from every prompt of `generation.prompts_path`; writes into the run's folder. -> results.json

    restart: even where it is done already. typed: the config as the user named it, for the next command.
    Raises UserError for bad prompts, no such model, contradicting settings.
    """
    settings = config.generation
    if settings.prompts_path is None:
        raise UserError("generation.prompts_path is not set: a .txt with a prompt a line, or a .jsonl")
    path = Path(settings.prompts_path)
    prompts = read_prompts(path, settings.prompt, config.tokenize.max_document_bytes)
    check_samples(config)
    place = find_model(config, settings.checkpoint)
    folder = places.run_dir(config) / "generation" / f"{path.stem}-{label(settings.checkpoint)}"
    identity = made_from(
        model=place.identity(),
        prompts=sha256_file(path),
        config=config.model_dump(include={"generation", "tokenize"}),
        precision=one_device(config).precision,
    )
    done = None if restart else earlier(folder, identity)
    if done is not None:
        info(f"written already in {shown(folder)}; --restart writes again")
        show(done, folder, typed)
        return done
    opened = open_model(place, config)
    if not opened.model.facts.causal:
        raise UserError(f"{shown(opened.where)} sees both sides of a token (a masked model): it cannot write on")
    started = time.monotonic()
    with refusals():
        texts, alone = write_all(config, opened, prompts)
    seconds = time.monotonic() - started
    results = {
        "run": config.name,
        "checkpoint": shown(opened.where),
        "step": opened.step,
        "prompts": shown(path),
        "texts": len(texts),
        "new_tokens": sum(text["new_tokens"] for text in texts),
        "stopped": dict(Counter(text["stopped"] for text in texts).most_common()),
        "one_by_one": alone,
        "settings": settings.model_dump(),
        "precision": one_device(config).precision,
        "seconds": round(seconds, 3),
        "lineage": {
            "weights": place.identity(), "tokenizer": opened.tokenizer.fingerprint, "prompts": sha256_file(path),
        },
    }  # fmt: skip
    about = {name: results[name] for name in ("checkpoint", "step", "settings")}
    move_aside(folder)
    with atomic_folder(folder) as temporary:
        write_json(temporary / RESULTS, {**results, "made_from": identity})
        with open(temporary / "texts.jsonl", "w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps({**text, **about}, ensure_ascii=False) + "\n" for text in texts)
        (temporary / "texts.txt").write_text("\n".join(map(readable, texts)), encoding="utf-8")
    show(results, folder, typed)
    return results


def check_samples(config: Config) -> None:
    """Raises UserError where samples of a prompt could not differ, or decoding settings contradict each other."""
    options = decoding_options(config.generation.decoding, "generation.decoding")
    samples = config.generation.samples_per_prompt
    if options.num_beams == 1 and options.temperature == 0 and samples > 1:
        raise UserError(
            f"generation.samples_per_prompt={samples}, but at temperature 0 they would all be the same; set "
            "generation.decoding.temperature or num_beams"
        )
    if 1 < options.num_beams < samples:
        raise UserError(
            f"generation.samples_per_prompt={samples} needs as many beams; generation.decoding.num_beams is "
            f"{options.num_beams}"
        )


def write_all(config: Config, opened: Opened, prompts: list[Prompt]) -> tuple[list[dict[str, Any]], bool]:
    """-> an entry for each text, in the order of the prompts; whether batches were given up for one by one"""
    settings, tokenizer, hardware = config.generation, opened.tokenizer, one_device(config)
    rows = encode_prompts(prompts, opened.config, tokenizer, opened.model.facts)
    device = torch.device(hardware.device_type)
    model = opened.model.to(device, torch.bfloat16 if hardware.precision == "bf16-true" else torch.float32)
    mixed = AUTOCAST.get(hardware.precision)
    writer = Writer(
        model,
        device=device,
        around=(lambda: torch.autocast(device.type, mixed)) if mixed else nullcontext,
        **arguments_of_generate(tokenizer, decoding_options(settings.decoding, "generation.decoding")),
    )
    batch_size = settings.batch_size
    if settings.self_check and hardware.precision == "32-true" and min(len(rows), batch_size) > 1:
        differing = writer.differing(rows)
        if differing:
            batch_size = 1
            warn(f"in a batch {differing} of a few prompts get another text than alone: all are written one by one")
    stream = None
    if len(rows) * settings.samples_per_prompt == 1 and settings.decoding.num_beams == 1:
        console.print(prompts[0].text, end="", style="bold", markup=False)
        stream = Stream(lambda new: text_of(new, rows[0], opened, settings.decoding), settings.decoding.stop_strings)
    written = writer.write(rows, batch_size, settings.samples_per_prompt, settings.seed, watch=stream)
    if stream is not None:
        stream.finish(written[0][0].ids)
    short = sum(
        text.reason == "length" and len(text.ids) < settings.decoding.max_new_tokens for row in written for text in row
    )
    if short:
        warn(f"{short} texts end before max_new_tokens, where the model's {model.facts.max_positions} positions do")
    entries = [
        entry(prompt, number, sample, ids, text, text_of(text.ids, ids, opened, settings.decoding), settings.seed)
        for number, (prompt, ids, samples) in enumerate(zip(prompts, rows, written, strict=True))
        for sample, text in enumerate(samples)
    ]
    return entries, batch_size != settings.batch_size


def text_of(new: list[int], prompt: list[int], opened: Opened, decoding: Decoding) -> str:
    """What new ids say after those of the prompt (which an encoder–decoder does not go on from)."""
    before = [] if opened.model.facts.encoder_decoder else prompt
    return cut_at_stop(continuation(opened.tokenizer, before, new), decoding.stop_strings)


def entry(
    prompt: Prompt, number: int, sample: int, ids: list[int], text: Generated, said: str, seed: int
) -> dict[str, Any]:
    """What texts.jsonl says of one text."""
    return {
        "prompt_number": number,
        "sample": sample,
        "prompt": prompt.text,
        "text": said,
        "where": prompt.where,
        "prompt_tokens": len(ids),
        "new_tokens": len(text.ids),
        "stopped": text.reason,
        "log_probability": text.log_probability,
        "seed": seed,
    }


def continuation(tokenizer: Tokenizer, before: list[int], new: list[int]) -> str:
    """The text of the new ids after those before: with the space that a tokenizer drops at a text's beginning."""
    start, whole = tokenizer.decode(before), tokenizer.decode([*before, *new])
    return whole[len(start) :] if start and whole.startswith(start) else tokenizer.decode(new)


class Stream:
    """Prints a text while it is written: all of it that further tokens cannot change."""

    def __init__(self, text_of: Callable[[list[int]], str], stop_strings: list[str]) -> None:
        self.text_of, self.stop_strings = text_of, stop_strings
        self.printed = 0

    def __call__(self, _: int, new: list[int]) -> None:
        """A token has come. Half a character, or what may become a stop string, has to wait."""
        text = self.text_of(new).rstrip("\N{REPLACEMENT CHARACTER}")
        held = max((n for stop in self.stop_strings for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self.print_until(text, len(text) - held)

    def finish(self, new: list[int]) -> None:
        """No more will come."""
        text = self.text_of(new)
        self.print_until(text, len(text))
        print(flush=True)

    def print_until(self, text: str, end: int) -> None:
        """Prints what is new of the text before `end`."""
        if end > self.printed:
            print(text[self.printed : end], end="", flush=True)
            self.printed = end


def readable(text: dict[str, Any]) -> str:
    """An entry, for people."""
    sample = f", sample {text['sample'] + 1}" if text["sample"] else ""
    head = f"=== {text['where']}{sample}: {text['new_tokens']} tokens, stopped by {text['stopped']}"
    return f"{head}\n{text['prompt']}▸{text['text']}\n"


def show(results: dict[str, Any], folder: Path, typed: str) -> None:
    """Some texts, and the table at the end."""
    if results["texts"] > 1:
        with open(folder / "texts.jsonl", encoding="utf-8") as file:
            for line, _ in zip(file, range(SHOWN), strict=False):
                info("\n" + readable(json.loads(line)).rstrip())
    step = "" if results["step"] is None else f", step {results['step']}"
    speed = results["new_tokens"] / max(results["seconds"], 1e-9)
    rows = [
        ("checkpoint", results["checkpoint"] + step),
        ("prompts", results["prompts"]),
        ("texts", f"{amount(results['texts'])}{', written one by one' if results['one_by_one'] else ''}"),
        ("new tokens", f"{amount(results['new_tokens'])} in {duration(results['seconds'])}, {amount(speed)}/s"),
        ("stopped by", ", ".join(f"{name} {amount(count)}" for name, count in results["stopped"].items())),
        ("written to", f"{shown(folder / 'texts.jsonl')}\n{shown(folder / 'texts.txt')}"),
    ]
    sampled = [f"python generation.py {typed} generation.decoding.temperature=0.8 generation.samples_per_prompt=2"]
    greedy = results["settings"]["decoding"]["num_beams"] == 1 and results["settings"]["decoding"]["temperature"] == 0
    table(f"Texts of {results['run']}", rows, sampled if greedy else [])
