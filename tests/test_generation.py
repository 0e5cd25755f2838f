"""From a prompts file to texts: read with its mistakes named, batched without changing a text, written and streamed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import small_tokenizer
from small_runs import read_lines, small_run
from torch import Tensor

from configs import places
from configs.schema import Config
from evaluation.generating import Stream, write_texts
from evaluation.opening import find_model, open_model
from evaluation.prompts import Prompt, prompt_ids, read_prompts
from evaluation.writing import Writer
from models.decoding import DecodingOptions, generate
from utils.messages import UserError

FLOAT32 = {"precision": "32-true", "accelerator": "cpu"}
PROMPTS = ["the cat", "a dog ran to town and", "sat", "über 東京 🙂", "one, two. three!"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("generation")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n", encoding="utf-8")
    settings = {"prompts_path": str(folder / "prompts.txt"), "batch_size": 3, "decoding": {"max_new_tokens": 12}}
    return small_run(folder, data={"max_seq_len": 32}, trainer=FLOAT32, generation=settings)


def changed(config: Config, **settings: Any) -> Config:
    decoding = config.generation.decoding.model_copy(update=settings.pop("decoding", {}))
    update = {"decoding": decoding, **settings}
    return config.model_copy(update={"generation": config.generation.model_copy(update=update)})


def texts(config: Config) -> list[dict[str, Any]]:
    write_texts(config, restart=True)
    [folder] = [path for path in (places.run_dir(config) / "generation").iterdir() if "." not in path.name]
    rows = read_lines(folder / "texts.jsonl")
    for path in folder.parent.iterdir():  # the next call has this place to itself
        path.rename(path.with_name(f"older.{path.name}.{len(list(folder.parent.iterdir()))}"))
    return rows


def read(path: Path, content: str | bytes, field: str = "prompt") -> list[Prompt]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_prompts(path, field, 1000)


def test_prompts_are_read(tmp_path: Path) -> None:
    found = read(tmp_path / "a.txt", "\ufeffone \r\n\n  two\u2028still two\nthree")
    assert [prompt.text for prompt in found] == ["one ", "  two\u2028still two", "three"]
    assert [prompt.where.rpartition(":")[2] for prompt in found] == ["1", "3", "4"]
    lines = '{"prompt": "a\\nb", "n": 1}\n\n{"prompt": "", "n": 2}\n'
    assert [prompt.text for prompt in read(tmp_path / "a.jsonl", lines)] == ["a\nb", ""]
    assert [prompt.text for prompt in read(tmp_path / "a.jsonl", lines, "{n}: {prompt}\n")] == ["1: a\nb\n", "2: \n"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt has no prompts in it"),
        ("a.txt", "\n \n", "a.txt has no prompts in it"),
        ("a.txt", b"good\nb\xffd\n", "a.txt:2: not UTF-8"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"prompt": "a"}\n["a"]\n', "a.jsonl:2: not JSON: a line is an object"),
        (
            "a.jsonl",
            '{"question": "a"}\n',
            "a.jsonl:1: no such field: 'prompt'; the record has question: set generation",
        ),
        ("a.jsonl", '{"prompt": ["a"]}\n', "a.jsonl:1: not text: 'prompt' is of type list"),
        ("a.csv", "a", "should be a .txt"),
    ],
)
def test_a_bad_prompts_file_is_named_with_its_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, content)
    with pytest.raises(UserError, match="no file .*gone.txt"):
        read_prompts(tmp_path / "gone.txt", "prompt", 1000)


def test_prompts_are_laid_out_as_in_training(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path)

    def laid_out(text: str, is_source: bool = False, **sections: Any) -> str:
        ids = prompt_ids(text, Config(**sections), tokenizer, is_source)
        return tokenizer.decode(ids, skip_special=False)

    answers, prepended = {"kind": "prompt_response"}, {"prepend": "Q: ", "separator": "\nA:"}
    assert laid_out("the cat") == "the cat"
    assert laid_out("the cat", dataset=answers, tokenize=prepended) == "Q: the cat\nA:"
    assert laid_out("the cat\nA:", dataset=answers, tokenize=prepended) == "Q: the cat\nA:"
    assert laid_out("the cat", data={"window_bos": True}) == "<bos>the cat"
    assert laid_out("the cat", is_source=True, dataset={"kind": "pairs"}) == "the cat<eos>"
    assert laid_out("", is_source=False) == "<bos>"
    assert laid_out("the <eos> cat") == "the <eos> cat" and tokenizer.eos_id not in tokenizer.encode("the <eos> cat")


def test_a_batch_gives_what_each_prompt_gives_alone(run: Config) -> None:
    for decoding in ({}, {"num_beams": 3}, {"temperature": 1.0, "top_k": 30}):
        samples = 1 if not decoding else 2
        many = texts(changed(run, decoding=decoding, samples_per_prompt=samples, batch_size=5))
        one = texts(changed(run, decoding=decoding, samples_per_prompt=samples, batch_size=1))
        assert [(row["prompt"], row["text"]) for row in many] == [(row["prompt"], row["text"]) for row in one]
        assert [row["prompt"] for row in many] == [text for text in PROMPTS for _ in range(samples)]
        assert [row["log_probability"] for row in many] == pytest.approx(
            [row["log_probability"] for row in one], abs=1e-3
        )
        other = texts(changed(run, decoding=decoding, samples_per_prompt=samples, seed=1))
        assert ([row["text"] for row in other] != [row["text"] for row in many]) == ("temperature" in decoding)


def test_what_is_written(run: Config, capsys: pytest.CaptureFixture[str]) -> None:
    rows = texts(run)
    opened = open_model(find_model(run, "best"), run)
    for number, row in enumerate(rows):
        ids = torch.tensor([opened.tokenizer.encode(PROMPTS[number])])
        options = DecodingOptions(max_new_tokens=12)
        [alone] = generate(opened.model, ids, torch.ones_like(ids), options, eos_id=opened.tokenizer.eos_id)
        assert row["prompt"] == PROMPTS[number] and row["text"] == opened.tokenizer.decode(alone.ids)
        assert row["prompt_number"] == number and row["where"].endswith(f"prompts.txt:{number + 1}")
        assert row["prompt_tokens"] == len(opened.tokenizer.encode(row["prompt"]))
        assert 0 <= row["new_tokens"] <= 12 and row["stopped"] in ("eos", "length") and row["log_probability"] < 0
        assert row["seed"] == 0 and row["settings"]["decoding"]["max_new_tokens"] == 12 and row["step"] == 7
    printed = capsys.readouterr().out
    assert f"{rows[0]['prompt']}▸" in printed and "texts.jsonl" in printed


def test_a_model_that_a_batch_changes_is_run_one_by_one(
    run: Config, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import evaluation.generating

    class Leaky:
        """A stepper whose rows see each other."""

        def __init__(self, inner: Any, rows: int) -> None:
            self.inner, self.shift = inner, rows - 1

        def start(self) -> Tensor:
            return self.inner.start().roll(self.shift, -1)

        def advance(self, tokens: Tensor) -> Tensor:
            return self.inner.advance(tokens)

        def reorder(self, rows: Tensor) -> None:
            self.inner.reorder(rows)

    sound = texts(changed(run, batch_size=1))
    opened = open_model(find_model(run, "best"), run)
    stepper = opened.model.stepper
    opened.model.stepper = lambda ids, mask, new: Leaky(stepper(ids, mask, new), len(ids))
    monkeypatch.setattr(evaluation.generating, "open_model", lambda *_: opened)
    capsys.readouterr()
    assert [row["text"] for row in texts(run)] == [row["text"] for row in sound]
    assert "all are written one by one" in capsys.readouterr().err
    assert [row["text"] for row in texts(changed(run, self_check=False))] != [row["text"] for row in sound]


def test_the_self_check_takes_prompts_of_very_different_lengths() -> None:
    asked: list[list[int]] = []

    class Recorder(Writer):
        def write_batch(self, rows: Any, options: Any, *others: Any) -> list[Any]:
            asked.append([len(row) for row in rows])
            return [type("Text", (), {"ids": []})() for _ in rows]

    arguments = {"device": torch.device("cpu"), "eos_id": None, "vocab_limit": 9, "decode": str}
    recorder = Recorder(torch.nn.Identity(), DecodingOptions(), **arguments)
    assert recorder.differing([[1] * length for length in (5, 9, 1, 30, 7, 2)]) == 0
    assert asked[0][0] == 1 and asked[0][-1] == 30 and len(asked[0]) == 4
    assert asked[1:] == [[length] for length in asked[0]]


def test_a_text_is_streamed_but_never_a_stop_string(capsys: pytest.CaptureFixture[str]) -> None:
    pieces = ["Hel", "lo\ufffd", "lo é", "lo é E", "lo é EN", "lo é ENx", "lo é ENx END"]
    said = ["Hel"] + ["Hel" + piece for piece in pieces[1:]]
    stream = Stream(lambda ids: said[len(ids) - 1].split("END")[0], ["END"])
    shown = []
    for n in range(1, len(said) + 1):
        stream(0, list(range(n)))
        shown.append(capsys.readouterr().out)
    stream.finish(list(range(len(said))))
    assert shown == ["Hel", "lo", " é", " ", "", "ENx", " "]
    assert capsys.readouterr().out == "\n"


def test_one_prompt_is_streamed(run: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "the cat"}) + "\n")
    [row] = texts(changed(run, prompts_path=str(tmp_path / "one.jsonl")))
    assert capsys.readouterr().out.startswith("the cat" + row["text"])


def test_mistakes(run: Config, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("short\n" + "the cat " * 2000 + "\n")
    for settings, message in (
        ({"prompts_path": None}, "prompts_path is not set"),
        ({"samples_per_prompt": 2}, "temperature 0 they would all be the same"),
        ({"samples_per_prompt": 4, "decoding": {"num_beams": 3}}, "needs as many beams"),
        (
            {"decoding": {"num_beams": 2, "temperature": 0.5}},
            "generation.decoding: num_beams above 1 needs temperature 0",
        ),
        ({"prompts_path": str(long)}, r"long.txt:2: the prompt has \d+ tokens, the model only 2048 positions"),
    ):
        with pytest.raises(UserError, match=message):
            write_texts(changed(run, **settings))
