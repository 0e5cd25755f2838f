"""What a config says of data -> the problems that its keys have with each other (see contradictions.py)."""

import math
import re
from collections.abc import Iterator

from configs.places import mixture_sources
from configs.schema import Config
from utils.imports import did_you_mean
from utils.yaml_text import KeyPath

Problem = tuple[tuple[KeyPath, ...], str]

_FIELDS = {
    "text": ("text",),
    "prompt_response": ("prompt", "response"),
    "messages": ("messages",),
    "pairs": ("source", "target"),
}


def find(config: Config) -> Iterator[Problem]:
    """Those of dataset, tokenize and data."""
    for part in (_dataset, _windows, _mixture, _on_the_fly):
        yield from part(config)


def _dataset(config: Config) -> Iterator[Problem]:
    dataset = config.dataset
    source = ("dataset", "source")
    paths = {name: getattr(dataset, name) for name in ("path", "train_path", "validation_path", "test_path")}
    given = [name for name, value in paths.items() if value is not None]
    if dataset.source == "files" and not (dataset.path or dataset.train_path):
        yield (source,), "dataset.source: files needs dataset.path (or train_path, validation_path, test_path)"
    if dataset.source in ("hub", "sample", "synthetic") and given:
        keys = (("dataset", given[0]), source)
        yield keys, f"dataset.{given[0]} is read by source: files only, and dataset.source is {dataset.source}"
    elif dataset.path is not None and (dataset.validation_path is not None or dataset.test_path is not None):
        other = "validation_path" if dataset.validation_path is not None else "test_path"
        yield (
            (("dataset", other), ("dataset", "path")),
            (f"dataset.path is cut into all splits; with dataset.{other} the training split is dataset.train_path"),
        )
    if dataset.source == "hub" and not dataset.name:
        yield (source,), "dataset.source: hub needs dataset.name"
    if "train" not in dataset.splits:
        yield (("dataset", "splits"),), "dataset.splits should say which of the Hub's splits is train"
    if dataset.source in ("files", "sample", "hub") and dataset.arguments:
        keys = (("dataset", "arguments"), source)
        yield (
            keys,
            f"dataset.arguments are those of a function or of synthetic data; dataset.source is {dataset.source}",
        )
    if dataset.source != "hub":
        for key in ("subset", "revision"):
            if getattr(dataset, key) is not None and dataset.source in ("files", "sample", "synthetic"):
                yield (
                    (("dataset", key), source),
                    f"dataset.{key} is for source: hub, and dataset.source is {dataset.source}",
                )
    for name, value in paths.items():
        for one in value.values() if isinstance(value, dict) else [value]:
            if isinstance(one, list) and (len(one) != 2 or dataset.kind != "pairs"):
                keys = (("dataset", name), ("dataset", "kind"))
                yield (
                    keys,
                    f"dataset.{name}: [source, target] are two line-parallel files: they need dataset.kind: pairs",
                )
        if isinstance(value, dict):
            for bad in [one for one in value if not re.fullmatch(r"[\w-]+", one) or one in ("train", "test")]:
                yield (
                    (("dataset", name, bad),),
                    f"dataset.{name}: '{bad}' cannot name a set (letters, digits, _ and -; not train or test)",
                )
            if not value:
                yield (("dataset", name),), f"dataset.{name} names no set"
    yield from _fractions(config)
    yield from _fields(config)


def _fractions(config: Config) -> Iterator[Problem]:
    fractions, keys = config.dataset.fractions, (("dataset", "fractions"),)
    if any(not 0 <= value <= 1 for value in fractions.values()):
        yield keys, "dataset.fractions should each be between 0 and 1"
    elif not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        yield keys, f"dataset.fractions should sum to 1, got {' + '.join(f'{value:g}' for value in fractions.values())}"


def _fields(config: Config) -> Iterator[Problem]:
    dataset, separator = config.dataset, config.tokenize.separator
    if separator is not None and dataset.kind != "prompt_response":
        keys = (("tokenize", "separator"), ("dataset", "kind"))
        yield (
            keys,
            "tokenize.separator cuts text into prompt and response: "
            f"it needs dataset.kind: prompt_response, not {dataset.kind}",
        )
    if separator == "":
        yield (("tokenize", "separator"),), "tokenize.separator should be some text or null, got ''"
    names = ("text",) if separator is not None else _FIELDS[dataset.kind]
    for name in dataset.fields:
        if name not in names:
            yield (
                (("dataset", "fields", name), ("dataset", "kind"), ("tokenize", "separator")),
                f"dataset.fields: a {dataset.kind} document has {' and '.join(names)}, no '{name}'"
                + did_you_mean(name, names),
            )


def _mixture(config: Config) -> Iterator[Problem]:
    mixture, at = config.data.mixture, ("data", "mixture")
    if mixture is None:
        return
    if not mixture:
        yield (at,), "data.mixture names no corpus; give it some, or leave it out"
    for name, weight in mixture.items():
        if weight <= 0:
            yield ((*at, name),), f"data.mixture: the weight of '{name}' should be above 0, got {weight:g}"
    sources = mixture_sources(config)
    for name in sources:
        if not re.fullmatch(r"[\w.-]+", name) or name in ("train", "validation", "test"):
            yield (
                (at,),
                f"data.mixture: '{name}' cannot name a corpus (letters, digits, _, . and -; not train, validation or "
                "test); name a dataset below paths.data, or a folder of shards by its path",
            )
    if len(sources) < len(mixture):
        yield (at,), f"data.mixture: two corpora have the same name; there are {', '.join(sources)}"
    if config.trainer.max_epochs is not None:
        yield (
            (("trainer", "max_epochs"), at),
            "data.mixture: each corpus has epochs of its own, so the length of the run is trainer.max_steps or "
            "trainer.max_tokens, not trainer.max_epochs",
        )


def _on_the_fly(config: Config) -> Iterator[Problem]:
    data, trainer, at = config.data, config.trainer, ("data", "tokens")
    if config.dataset.streamed and config.dataset.source != "hub":
        keys = (("dataset", "streamed"), ("dataset", "source"))
        yield keys, f"dataset.streamed is for source: hub, and dataset.source is {config.dataset.source}"
    if data.tokens != "on_the_fly":
        return
    said = "data.tokens: on_the_fly"
    if trainer.max_epochs is not None:
        yield (
            (("trainer", "max_epochs"), at),
            f"{said} counts no windows before it reads them: the length of the run is trainer.max_steps or "
            "trainer.max_tokens, not trainer.max_epochs",
        )
    if data.packing == "none":
        yield (("data", "packing"), at), f"{said} cannot know the longest document beforehand: use packing truncate"
    if trainer.max_tokens is not None and data.packing not in ("full", "best_fit"):
        yield (
            (("trainer", "max_tokens"), ("data", "packing"), at),
            f"{said} takes windows to be full where it counts tokens, and with packing {data.packing} they are not: "
            "use trainer.max_steps",
        )
    if data.mixture is not None:
        yield (("data", "mixture"), at), f"data.mixture needs shards; {said} reads one dataset"


def _windows(config: Config) -> Iterator[Problem]:
    data, pairs = config.data, config.dataset.kind == "pairs"
    packing, overlap = ("data", "packing"), ("data", "overlap")
    if pairs and data.packing in ("full", "partial"):
        keys = (packing, ("dataset", "kind"))
        yield keys, f"dataset.kind: pairs takes data.packing none | truncate | best_fit, got {data.packing}"
    if data.overlap and data.packing in ("none", "truncate", "best_fit"):
        yield (
            (overlap, packing),
            f"data.overlap={data.overlap} needs data.packing full | partial; {data.packing} has no next window",
        )
    if data.document_masking and data.padding_side == "left":
        keys = (("data", "padding_side"), ("data", "document_masking"))
        yield keys, "data.document_masking fills rows on the right: data.padding_side: left does not go with it"
    attention = config.model.attention
    if (
        data.document_masking
        and config.objective.name in ("masked", "seq2seq")
        and attention not in (None, "sdpa", "eager")
    ):
        keys = (("model", "attention"), ("data", "document_masking"))
        yield (
            keys,
            f"data.document_masking with objective {config.objective.name} needs model.attention: sdpa | eager, which "
            f"take masks; got {attention}",
        )
    left = data.max_seq_len - data.window_bos - data.window_eos
    if left < 1 or data.overlap >= left:
        yield (
            (overlap, ("data", "max_seq_len")),
            (
                f"data.overlap={data.overlap} should be smaller than what a window has for text: "
                f"max_seq_len={data.max_seq_len}{' less its BOS and EOS' if left < data.max_seq_len else ''}"
            ),
        )
