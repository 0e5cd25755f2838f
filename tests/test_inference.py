"""Scores of a run: sums that no batch size changes, compared with sums made by hand; texts beside their references."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import TINY, read_lines, small_run

from configs import places
from configs.schema import Config
from dataset import LanguageModelData
from evaluation.opening import find_model, open_model
from evaluation.scoring import score
from model import LanguageModelTraining
from models.decoding import DecodingOptions, generate
from tokenizer.tokenizer import Tokenizer
from training import checkpoints
from utils.messages import UserError

FLOAT32 = {"precision": "32-true", "accelerator": "cpu"}


def changed(config: Config, section: str, **values: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def scored(config: Config, **settings: Any) -> dict[str, Any]:
    return score(changed(config, "inference", **settings), LanguageModelData, LanguageModelTraining, restart=True)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("text")
    return small_run(folder, data={"max_seq_len": 16}, trainer=FLOAT32, inference={"checkpoint": "best"})


@pytest.fixture(scope="module")
def answers_run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Prompts and responses, one document to a window."""
    folder = tmp_path_factory.mktemp("answers")
    decoding = {"max_new_tokens": 12, "stop_strings": ["?!"]}
    return small_run(
        folder,
        fields=("prompt", "response"),
        dataset={"kind": "prompt_response"},
        data={"max_seq_len": 64, "packing": "none"},
        trainer=FLOAT32,
        inference={"decoding": decoding, "batch_size": 7},
    )


def test_the_numbers_are_those_of_a_sum_by_hand_whatever_the_batch(text_run: Config) -> None:
    opened = open_model(find_model(text_run, "best"), text_run)
    texts = [line["text"] for line in read_lines(Path(text_run.dataset.test_path))]
    stream = [i for text in texts for i in [*opened.tokenizer.encode(text), opened.tokenizer.eos_id]]
    nats, correct = 0.0, 0
    for start in range(0, len(stream) - 1, 16):
        row = torch.tensor([stream[start : start + 17]])
        with torch.no_grad():
            said = opened.model.logits({"input_ids": row[:, :-1]}).double().log_softmax(-1)
        nats -= said.gather(-1, row[:, 1:, None]).sum().item()
        correct += (said.argmax(-1) == row[:, 1:]).sum().item()
    targets = len(stream) - 1
    units = sum(len(text.split()) for text in texts) + sum(text.count("\n") + (text[-1:] != "\n") for text in texts)
    expected = {
        "loss": nats / targets,
        "perplexity": math.exp(nats / targets),
        "perplexity_per_word": math.exp(nats / units),
        "bits_per_byte": nats / math.log(2) / sum(len(text.encode()) for text in texts),
        "token_accuracy": correct / targets,
    }
    for size in (1, 5, 64):
        results = scored(text_run, batch_size=size)
        assert results["measures"] == pytest.approx(expected, rel=1e-6), size
        assert results["sums"]["targets"] == targets and results["sums"]["correct"] == correct
        assert results["step"] == 7 and results["checkpoint"].endswith("best-00000007")


def test_where_text_is_cut_figures_by_word_and_byte_are_left_out(text_run: Config) -> None:
    cut = scored(changed(text_run, "data", packing="truncate", max_seq_len=4))
    assert cut["measures"]["perplexity_per_word"] is None and cut["measures"]["bits_per_byte"] is None
    assert "not scored with data.packing=truncate" in cut["why_null"]
    few = scored(text_run, max_samples=2)
    assert few["sums"]["windows"] == 2 and few["sums"]["targets"] == 32
    assert few["measures"]["bits_per_byte"] is None and "only 2 of" in few["why_null"]


def test_predictions_stand_beside_their_references_in_order(answers_run: Config) -> None:
    results = scored(answers_run)
    folder = places.run_dir(answers_run) / "inference" / "test-best"
    rows = read_lines(folder / "predictions.jsonl")
    raw = read_lines(Path(answers_run.dataset.test_path))
    assert [row["index"] for row in rows] == list(range(len(raw))) == list(range(results["text"]["predictions"]))
    assert [(row["prompt"], row["reference"]) for row in rows] == [(one["prompt"], one["response"]) for one in raw]
    opened = open_model(find_model(answers_run, "best"), answers_run)
    for row, one in zip(rows, raw, strict=True):
        ids = torch.tensor([opened.tokenizer.encode(one["prompt"])])
        eos = opened.tokenizer.eos_id
        [alone] = generate(opened.model, ids, torch.ones_like(ids), DecodingOptions(max_new_tokens=12), eos_id=eos)
        if row["stopped"] != "stop_string":
            assert row["prediction"] == opened.tokenizer.decode(alone.ids)
    assert {row["stopped"] for row in rows} >= {"length"}
    assert scored(answers_run, batch_size=1)["text"] == results["text"]


def test_bleu_is_that_of_sacrebleus_command_line(answers_run: Config) -> None:
    # Random weights write nothing like the references, so a test that means something puts words into their mouth.
    class Parrot(LanguageModelTraining):
        def test_step(self, batch: dict[str, torch.Tensor], number: int) -> None:
            super().test_step(batch, number)
            for index, written in self.generated:
                answer = self.trainer.datamodule.reference(index).split()
                written.ids = self.decoding["decode"].__self__.encode(" ".join(answer[: len(answer) - index % 3]))

    results = score(answers_run, LanguageModelData, Parrot, restart=True)
    folder = places.run_dir(answers_run) / "inference" / "test-best"
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        "references.txt",
        "-i",
        "predictions.txt",
        "-m",
        "bleu",
        "chrf",
        "-w",
        "8",
    ]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    bleu, chrf = json.loads(printed)
    assert 20 < bleu["score"] < 100
    assert round(results["text"]["bleu"]["score"], 8) == bleu["score"]
    assert round(results["text"]["chrf"]["score"], 8) == chrf["score"]
    assert results["text"]["bleu"]["signature"] == bleu["signature"]
    assert 0 < results["text"]["exact_match"] < 1


def test_an_edited_test_step_takes_effect(text_run: Config) -> None:
    class Edited(LanguageModelTraining):
        def test_step(self, batch: dict[str, torch.Tensor], number: int) -> None:
            super().test_step(batch, number)
            self.log("rows", float(len(batch["input_ids"])), reduce_fx="sum", batch_size=1)

    results = score(text_run, LanguageModelData, Edited, restart=True)
    assert results["logged"] == {"rows": results["sums"]["windows"]}


def test_beams_write_too(answers_run: Config) -> None:
    decoding = answers_run.inference.decoding.model_copy(update={"num_beams": 3, "stop_strings": []})
    scored(answers_run, decoding=decoding, max_samples=3)
    beams = read_lines(places.run_dir(answers_run) / "inference" / "test-best" / "predictions.jsonl")
    scored(answers_run, decoding=decoding.model_copy(update={"num_beams": 1}), max_samples=3)
    greedy = read_lines(places.run_dir(answers_run) / "inference" / "test-best" / "predictions.jsonl")
    assert len(beams) == len(greedy) == 3
    pairs = [(one, other) for one, other in zip(beams, greedy, strict=True) if one["tokens"] == other["tokens"]]
    assert all(one["log_probability"] >= other["log_probability"] - 1e-3 for one, other in pairs)


def test_what_is_done_is_not_done_again_and_what_differs_is_moved_aside(
    text_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(text_run, "inference", split="validation")
    folder = places.run_dir(config) / "inference" / "validation-best"
    first = score(config, LanguageModelData, LanguageModelTraining)
    again = score(config, LanguageModelData, LanguageModelTraining)
    assert {**first, "made_from": again["made_from"]} == again and "scored already" in capsys.readouterr().out
    assert [path.name for path in folder.parent.glob("validation-best*")] == ["validation-best"]
    score(changed(config, "inference", batch_size=3), LanguageModelData, LanguageModelTraining)
    assert len(list(folder.parent.glob("validation-best*"))) == 2


def test_a_run_a_checkpoint_and_a_hugging_face_directory(text_run: Config, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    run = places.run_dir(text_run)
    loss = scored(text_run)["measures"]["loss"]
    for which in (str(run), str(run / "checkpoints/step-00000007"), "last"):
        assert scored(text_run, checkpoint=which)["measures"]["loss"] == loss
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=320, **sizes)).eval()
    llama.save_pretrained(tmp_path)
    Tokenizer.configured(text_run).save(tmp_path)
    results = scored(text_run, checkpoint=str(tmp_path), batch_size=64)
    data = LanguageModelData(
        text_run, Tokenizer.configured(text_run), open_model(find_model(text_run, "best"), text_run).model.facts
    )
    nats = 0.0
    for batch in data.test_dataloader():
        logits = llama(batch["input_ids"]).logits.flatten(0, 1)
        nats += torch.nn.functional.cross_entropy(logits, batch["targets"].flatten(), reduction="sum").item()
    assert results["sums"]["nats"] == pytest.approx(nats, rel=1e-5)
    assert results["step"] is None and results["checkpoint"] == str(tmp_path)


def test_only_our_own_exports_may_bring_code(text_run: Config, tmp_path: Path) -> None:
    from training.export_forms import Vocabulary, write_custom_code

    opened = open_model(find_model(text_run, "best"), text_run)
    model, tokenizer = opened.model, opened.tokenizer
    arguments = {"vocab_size": model.facts.vocab_size, **model.arguments}
    dress = {"vocab_size": model.facts.vocab_size, "tie": True, "tokens": model.tokens}
    for folder in (places.run_dir(text_run) / "model", tmp_path / "model"):
        folder.mkdir()
        write_custom_code(model, model.backbone, arguments, dress, folder, Vocabulary(tokenizer.vocab_size, 0, 1, 2))
        tokenizer.save(folder)
    own = scored(text_run, checkpoint=str(places.run_dir(text_run) / "model"))
    assert own["measures"] == pytest.approx(scored(text_run)["measures"], rel=1e-6)
    with pytest.raises(UserError, match="brings its own code; if you trust it"):
        scored(text_run, checkpoint=str(tmp_path / "model"))
    trusting = changed(text_run, "model", trust_remote_code=True)
    assert scored(trusting, checkpoint=str(tmp_path / "model"))["measures"] == own["measures"]


def test_samples_that_an_edited_step_leaves_out_are_told(
    answers_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forgetful(LanguageModelTraining):
        def on_test_epoch_end(self) -> None:
            super().on_test_epoch_end()
            del self.generated[::2]

    results = score(answers_run, LanguageModelData, Forgetful, restart=True)
    assert results["text"]["predictions"] == 15
    assert "has written 15 texts for 30 samples" in capsys.readouterr().err


def test_encoder_decoders_translate(tmp_path: Path) -> None:
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
             (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    config = small_run(
        tmp_path,
        fields=("source", "target"),
        documents=9,
        dataset={"kind": "pairs"},
        data={"max_seq_len": 64, "packing": "none"},
        objective={"name": "seq2seq"},
        model={
            "backbone": None,
            "huggingface": "AutoModelForSeq2SeqLM",
            "arguments": {"model_type": "marian", "d_model": 16, "max_position_embeddings": 64, **sizes},
        },
        trainer=FLOAT32,
        inference={"decoding": {"max_new_tokens": 8}},
    )
    one, many = scored(config, batch_size=1), scored(config, batch_size=9)
    assert one["measures"] == pytest.approx(many["measures"], rel=1e-5)
    assert one["text"] == many["text"] and one["text"]["predictions"] == 9
    references = [
        row["reference"] for row in read_lines(places.run_dir(config) / "inference/test-best/predictions.jsonl")
    ]
    assert references == [line["target"] for line in read_lines(Path(config.dataset.test_path))]


def test_mistakes(text_run: Config, tmp_path: Path) -> None:
    for settings, message in (
        ({"split": "tset"}, "no split 'tset'; did you mean 'test'"),
        ({"checkpoint": str(tmp_path / "nowhere")}, "neither best, nor last, nor a path"),
        ({"checkpoint": str(tmp_path)}, "is no run"),
        ({"metrics": ["blue"]}, "did you mean 'bleu'"),
        ({"decoding": text_run.inference.decoding.model_copy(update={"num_beams": 2, "temperature": 1.0})}, "beams"),
    ):
        with pytest.raises(UserError, match=message):
            scored(text_run, **settings)
    with pytest.raises(UserError, match="no run at .*never.*python train.py"):
        scored(text_run.model_copy(update={"name": "never"}))


def test_a_corrupt_checkpoint_is_named(tmp_path: Path) -> None:
    config = small_run(tmp_path, documents=5, data={"max_seq_len": 16}, trainer=FLOAT32, model=TINY)
    file = places.run_dir(config) / "checkpoints/best-00000007/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="best-00000007 is not whole: model.safetensors"):
        scored(config, checkpoint=str(file.parent))
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        scored(config)
    assert checkpoints.problem_with(file.parent) is not None
    assert scored(config, checkpoint="last")["step"] == 7
