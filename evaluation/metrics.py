"""Predictions and references, both texts -> scores: BLEU, chrF, exact match, or any function or torchmetrics class.

metrics:
  - bleu                                                  # sacrebleu's; its arguments may stand beside the name
  - {name: bleu, tokenize: zh}
  - my_metrics.first_word                                 # f(predictions, references) -> number or {name: number}
  - {name: torchmetrics.text.ROUGEScore, rouge_keys: rougeL}
"""

import importlib
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from utils.imports import check_arguments, did_you_mean, import_object
from utils.messages import UserError

Texts = Sequence[str]


class Score(NamedTuple):
    """A number, and what must be known to compare it with others' numbers."""

    name: str
    value: float
    signature: str | None = None


class Metric(NamedTuple):
    """A metric of the config, ready to be used."""

    name: str
    score: Callable[[Texts, Texts], list[Score]]


def load_metrics(entries: Sequence[Any], where: str = "inference.metrics") -> list[Metric]:
    """The config's list -> metrics. Raises UserError for a name, an argument or an entry that is none."""
    metrics = [load_metric(entry, f"{where}.{index}") for index, entry in enumerate(entries)]
    names = [metric.name for metric in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{where}: {', '.join(twice)} stands there twice")
    return metrics


def load_metric(entry: Any, where: str) -> Metric:
    """One entry: a name, or {name: …, and its arguments}."""
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise UserError(f"{where}: expected a name or {{name: …, and its arguments}}, got {entry!r}")
    name, arguments = entry["name"], {key: value for key, value in entry.items() if key != "name"}
    if name in ("bleu", "chrf"):
        return sacrebleu_metric(name, arguments, where)
    if name == "exact_match":
        check_arguments(exact_match, arguments, where, given=("predictions", "references"))
        return Metric(name, lambda ours, theirs: [Score(name, exact_match(ours, theirs))])
    if "." not in name:
        near = did_you_mean(name, ["bleu", "chrf", "exact_match"])
        raise UserError(f"{where}: no metric '{name}'{near or '; there are bleu, chrf, exact_match and import paths'}")
    code = import_object(name, where)
    short = name.rpartition(".")[2]
    if inspect.isclass(code):
        return torchmetrics_metric(short, code, arguments, where)
    if not callable(code):
        raise UserError(f"{where}: {name} is neither a function nor a class of torchmetrics")
    return Metric(short, lambda ours, theirs: named(short, code(list(ours), list(theirs), **arguments), where))


def one_line(text: str) -> str:
    """As a text stands in the files that sacrebleu's command line reads: one line, nothing at its end."""
    return " ".join(text.split("\n")).rstrip()


def sacrebleu_metric(name: str, arguments: dict[str, Any], where: str) -> Metric:
    """Corpus BLEU or chrF by sacrebleu, of texts made one line: what its command line gives. arXiv:1804.08771"""
    kind = getattr(importlib.import_module("sacrebleu.metrics"), {"bleu": "BLEU", "chrf": "CHRF"}[name])
    check_arguments(kind, arguments, where, given=("references",))
    try:
        kind(**arguments)
    except (Exception, SystemExit) as error:  # sacrebleu checks its arguments by assertions, and by leaving
        raise UserError(f"{where}: sacrebleu does not take {arguments}: {error or type(error).__name__}") from error

    def score(predictions: Texts, references: Texts) -> list[Score]:
        metric = kind(**arguments)
        result = metric.corpus_score(
            [one_line(text) for text in predictions], [[one_line(text) for text in references]]
        )
        return [Score(name, result.score, metric.get_signature().format())]

    return Metric(name, score)


def exact_match(predictions: Texts, references: Texts) -> float:
    """Share of the predictions that are their reference, space around them apart."""
    same = sum(ours.strip() == theirs.strip() for ours, theirs in zip(predictions, references, strict=True))
    return same / len(references) if references else 0.0


def torchmetrics_metric(name: str, kind: type, arguments: dict[str, Any], where: str) -> Metric:
    """A metric of torchmetrics that takes texts. It is given all of them at once."""
    from torchmetrics import Metric as TorchMetric

    if not issubclass(kind, TorchMetric):
        raise UserError(f"{where}: the class {kind.__name__} is not one of torchmetrics; a function may be anything")
    try:
        metric = kind(**arguments)
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(f"{where}: {kind.__name__} cannot be made with {arguments}: {error}") from error

    def score(predictions: Texts, references: Texts) -> list[Score]:
        metric.reset()
        metric.update(list(predictions), list(references))
        return named(name, metric.compute(), where)

    return Metric(name, score)


def named(name: str, result: Any, where: str) -> list[Score]:
    """A number, a tensor of one, or several of these by name -> scores."""
    if isinstance(result, Mapping):
        return [score for key, value in result.items() for score in named(f"{name}.{key}", value, where)]
    value = result.item() if hasattr(result, "item") and getattr(result, "numel", lambda: 1)() == 1 else result
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UserError(f"{where}: {name} gave {type(result).__name__}; a metric gives a number, or numbers by name")
    return [Score(name, float(value))]
