"""Scores of text: the same as sacrebleu's command line, and whatever else is named by its import path."""

import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.metrics import Score, load_metrics, one_line
from utils.messages import UserError

REFERENCES = [
    "The cat sat on the mat.",
    "Ein Hund läuft über die Wiese .",
    "two\nlines  and a tail \n",
    "a",
    "Dogs, cats",
]
PREDICTIONS = ["The cat sat on a mat.", "Ein Hund läuft über eine Wiese .", "two\nlines and a tail", "b", "dogs, cats"]


def scores(*entries: object) -> dict[str, Score]:
    return {score.name: score for metric in load_metrics(entries) for score in metric.score(PREDICTIONS, REFERENCES)}


def test_bleu_and_chrf_are_those_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "references.txt").write_text("".join(one_line(text) + "\n" for text in REFERENCES), encoding="utf-8")
    (tmp_path / "predictions.txt").write_text("".join(one_line(text) + "\n" for text in PREDICTIONS), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references.txt", "-i", "predictions.txt", "-w", "10"]
    for options, entries in (
        (["-m", "bleu", "chrf"], ["bleu", "chrf"]),
        (["-m", "bleu", "-lc", "-tok", "char"], [{"name": "bleu", "lowercase": True, "tokenize": "char"}]),
        (["-m", "chrf", "--chrf-word-order", "2"], [{"name": "chrf", "word_order": 2}]),
    ):
        printed = subprocess.run(
            [*command, "-b", *options], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.replace(",", " ").strip("[]\n ")  # fmt: skip
        theirs = [float(number) for number in printed.split()]
        ours = list(scores(*entries).values())
        assert [round(score.value, 10) for score in ours] == theirs
        assert all(score.signature.startswith("nrefs:1|case:") for score in ours)


def test_exact_match_forgives_only_the_space_around() -> None:
    assert scores("exact_match")["exact_match"].value == 0
    [metric] = load_metrics(["exact_match"])
    assert metric.score(["a ", "b", "C"], ["a", " b\n", "c"])[0].value == pytest.approx(2 / 3)


def words(predictions: list[str], references: list[str], least: int = 0) -> dict[str, float]:
    return {"said": sum(len(text.split()) >= least for text in predictions), "asked": len(references)}


def test_any_function_and_any_torchmetrics_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    found = scores(
        {"name": f"{__name__.rpartition('.')[2]}.words", "least": 2},
        "torchmetrics.text.CharErrorRate",
        {"name": "torchmetrics.text.SacreBLEUScore", "tokenize": "13a"},
        "bleu",
    )
    assert found["words.said"].value == 4 and found["words.asked"].value == 5
    assert 0 < found["CharErrorRate"].value < 1
    assert found["bleu"].value > 10


def not_a_number(predictions: list[str], references: list[str]) -> str:
    return "good"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("blue", "inference.metrics.0: no metric 'blue'; did you mean 'bleu'?"),
        ({"name": "bleu", "tokenise": "zh"}, "did you mean 'tokenize'"),
        ({"name": "bleu", "tokenize": "nothing"}, "sacrebleu does not take"),
        (3, "expected a name or"),
        ("torchmetrics.text.CharErrorRat", "did you mean 'CharErrorRate'"),
        ("collections.OrderedDict", "not one of torchmetrics"),
    ],
)
def test_a_metric_that_is_none_is_refused(entry: object, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        load_metrics([entry])


def test_a_result_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    with pytest.raises(UserError, match="not_a_number gave str"):
        scores(f"{__name__.rpartition('.')[2]}.not_a_number")
