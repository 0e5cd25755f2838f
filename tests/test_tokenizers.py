"""Tokenizers: the same face over two libraries, training, and what transformers makes of the result."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from configs.schema import Config
from tests.conftest import RunScript
from tests.nasty_texts import texts
from tokenizer import convert_sp, fast_bpe, report, train_hf_tokenizer, train_sp_tokenizer
from tokenizer.tokenizer import Tokenizer
from tokenizer.training_text import TrainingText, pieces
from utils.files import atomic_write
from utils.messages import UserError

BERT = {"bos": None, "eos": None, "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]"}
LITERAL = "a <unk> b<eos> </s>[MASK] <0x41>x<pad>"


def config(train: Path, **tokenizer: Any) -> Config:
    dataset = {"source": "files", "train_path": str(train), "text_unit": "paragraph"}
    return Config(name="test", dataset=dataset, tokenizer={"vocab_size": 1000, **tokenizer})


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short text that every machine has: two modules of Python's library, and a few words more."""
    path = tmp_path_factory.mktemp("text") / "book.txt"
    import argparse
    import textwrap

    sources = [Path(module.__file__).read_text() for module in (argparse, textwrap)]
    path.write_text(
        "\n\n".join(sources) + "\n\n" + " ".join("the house of Botchan, a teacher; <tag>" for _ in range(50))
    )
    return path


@pytest.fixture(scope="module")
def trained(book: Path) -> dict[str, Tokenizer]:
    """One of each kind."""
    made = {}
    for kind in train_hf_tokenizer.KINDS:
        given = config(book, kind=kind, special_tokens=BERT if kind == "wordpiece" else {"mask": "<mask>"})
        made[kind] = Tokenizer(train_hf_tokenizer.train(given, TrainingText(given)))
    for kind in train_sp_tokenizer.KINDS:
        given = config(book, kind=kind, special_tokens={"mask": "<mask>", "extra": ["<x>"]})
        made[f"sp {kind}"] = Tokenizer(train_sp_tokenizer.train(given, TrainingText(given, by_line=True)))
    return made


ALL = [*train_hf_tokenizer.KINDS, *(f"sp {kind}" for kind in train_sp_tokenizer.KINDS)]


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_has_the_same_face(trained: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = trained[kind]
    sample = texts(50, seed=1)
    for text, batch in zip(sample, tokenizer.encode_batch(sample), strict=True):
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text) == batch.tolist() and batch.dtype == np.uint32
        assert max(ids, default=0) < tokenizer.vocab_size
        assert all(0 <= start <= end <= len(text) for start, end in offsets) and len(offsets) == len(ids)
        assert offsets == sorted(offsets)
    ids, lengths = tokenizer.encode_joined(sample, end=1)
    assert ids.tolist() == [i for text in sample for i in [*tokenizer.encode(text), 1]]
    assert ids.dtype in (np.uint16, np.uint32)
    assert lengths.tolist() == [len(tokenizer.encode(text)) + 1 for text in sample]
    for text, (row, ends) in zip(sample, tokenizer.encode_with_offsets_batch(sample), strict=True):
        expected, offsets = tokenizer.encode_with_offsets(text)
        assert row.tolist() == expected and ends.tolist() == [end for _, end in offsets] and ends.dtype == np.int64
    if kind in ("sp unigram", "sp bpe", "sp char"):
        assert tokenizer.encode_with_offsets("x 🤗")[1].count((2, 3)) == 4  # each of the bytes of the character
    engine = "sentencepiece" if kind.startswith("sp") else "gigatoken" if kind == "byte_level_bpe" else "tokenizers"
    assert tokenizer.fast.startswith(engine if fast_bpe.installed() else engine.replace("gigatoken", "tokenizers"))
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("some text") == tokenizer.encode("some text") and copy.fingerprint == tokenizer.fingerprint
    assert tokenizer.starts_word.shape == (tokenizer.vocab_size,)
    # Past the vocabulary lies the padding of embeddings.
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""


@pytest.mark.parametrize("kind", ALL)
def test_special_strings_in_a_text_stay_text(trained: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = trained[kind]
    special = set(tokenizer.special_ids) - {tokenizer.unk_id}
    for text in (LITERAL, *(tokenizer.token(i) for i in tokenizer.special_ids)):
        ids = tokenizer.encode(text)
        assert not special & set(ids)
        if kind in ("byte_level_bpe", "sp unigram", "sp bpe", "sp char"):  # these can spell anything
            assert tokenizer.unk_id not in ids and tokenizer.decode(ids) == text
        # With the special ones in between, decoding leaves them out or shows them.
        if tokenizer.eos_id is not None:
            assert tokenizer.decode([*ids, tokenizer.eos_id]) == tokenizer.decode(ids)
            assert tokenizer.decode([*ids, tokenizer.eos_id], skip_special=False).endswith("<eos>")


def test_what_can_spell_everything_gives_every_text_back(trained: dict[str, Tokenizer]) -> None:
    for kind in ("byte_level_bpe", "sp unigram", "sp bpe", "sp char"):
        for text in texts(500, seed=2):
            assert trained[kind].decode(trained[kind].encode(text)) == text, kind


@pytest.mark.parametrize("kind", [k for k in ALL if k not in ("sp char", "sp word")])
def test_transformers_gives_the_same_ids(trained: dict[str, Tokenizer], kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = trained[kind]
    assert tokenizer.save(tmp_path) is None
    other = AutoTokenizer.from_pretrained(tmp_path)
    sample = texts(300, seed=3)
    assert other(sample, add_special_tokens=False)["input_ids"] == [
        ids.tolist() for ids in tokenizer.encode_batch(sample)
    ]
    assert len(other) == tokenizer.vocab_size
    for role in ("bos", "eos", "pad", "unk", "mask", "cls", "sep"):
        assert getattr(other, f"{role}_token_id") == getattr(tokenizer, f"{role}_id"), role
    ids = tokenizer.encode("The house,  of\n\tBotchan 漢字")
    for skip in (True, False):
        decoded = other.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert decoded == tokenizer.decode(ids, skip_special=skip)
    # What was saved is read as the same tokenizer, by the same library, and saved again byte for byte.
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint and type(again.engine) is type(tokenizer.engine)
    again.save(tmp_path / "copy")
    for path in (tmp_path / "copy").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_bert_s_special_tokens_are_added_when_asked_for(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = trained["wordpiece"]
    tokenizer.save(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path)("a house")["input_ids"]
    assert ids == [tokenizer.cls_id, *tokenizer.encode("a house"), tokenizer.sep_id]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_sentencepiece_converts_with_identical_ids(book: Path, kind: str, byte_fallback: bool) -> None:
    from tokenizers import Tokenizer as Pipeline

    given = config(book, kind=kind, byte_fallback=byte_fallback, vocab_size=1500)
    original = Tokenizer(train_sp_tokenizer.train(given, TrainingText(given, by_line=True)))
    pipeline = Pipeline.from_str(convert_sp.convert(original.engine.model))  # type: ignore[union-attr]
    pipeline.encode_special_tokens = True
    sample = [*texts(10_000), LITERAL, *report.TRIALS.values()]
    converted = pipeline.encode_batch(sample, add_special_tokens=False)
    different = [
        text
        for text, ids, other in zip(sample, original.encode_batch(sample), converted, strict=True)
        if ids.tolist() != other.ids
    ]
    assert different == []
    decoded = [pipeline.decode(encoding.ids, skip_special_tokens=False) for encoding in converted]
    if byte_fallback:
        assert decoded[:10_000] == sample[:10_000]
        assert all(
            original.decode(ids) == text for ids, text in zip(original.encode_batch(sample), decoded, strict=True)
        )


def test_a_long_document_converts_with_identical_ids(shared: Path, book: Path) -> None:
    text = gzip.open(shared / "data/wikitext-2/train.txt.gz", "rt").read()[:150_000]
    for kind in ("unigram", "bpe"):
        given = config(book, kind=kind)
        original = Tokenizer(train_sp_tokenizer.train(given, TrainingText(given, by_line=True)))
        complete, problem = convert_sp.complete(original.files, *original.special_strings())
        assert problem is None
        converted = Tokenizer({"tokenizer.json": complete["tokenizer.json"]})
        assert converted.encode(text) == original.encode(text), kind


def test_other_normalisations_are_measured_and_some_kinds_refused(book: Path, trained: dict[str, Tokenizer]) -> None:
    given = config(book, kind="bpe", normalisation="nfkc")
    tokenizer = Tokenizer(train_sp_tokenizer.train(given, TrainingText(given, by_line=True)))
    files, said = train_sp_tokenizer.convert(given, tokenizer)
    assert "tokenizer.json" in files and " texts" in said
    converted = Tokenizer({"tokenizer.json": files["tokenizer.json"]})
    differing, count = report.differing_share(tokenizer, converted, texts(2000))
    assert 0 < differing < 0.02 * count  # combining marks
    for kind in ("char", "word"):
        files, said = train_sp_tokenizer.convert(given, trained[f"sp {kind}"])
        assert "tokenizer.json" not in files and f"{kind} models cannot be converted" in said


def t5_beside_a_model(path: Path, folder: Path) -> float:
    """Saves a foreign .model beside a model's config -> the share of texts to which transformers gives other ids."""
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.load(path)
    assert tokenizer.save(folder) is None
    (folder / "config.json").write_text('{"model_type": "llama"}')  # whose own class would make other ids of the files
    other, sample = AutoTokenizer.from_pretrained(folder), texts(1000)
    assert (len(other), other.pad_token_id, other.eos_token_id) == (32_000, 0, 1)
    ids = other(sample, add_special_tokens=False)["input_ids"]
    return sum(a != b.tolist() for a, b in zip(ids, tokenizer.encode_batch(sample), strict=True)) / len(sample)


def test_pretrained_tokenizers(shared: Path, tmp_path: Path) -> None:
    import sentencepiece

    data = shared / "data"
    gpt2 = Tokenizer.load(data / "gpt2")
    text = (data / "tinyshakespeare/input.txt").read_text()
    cut = int(0.9 * len(text))
    assert (len(gpt2.encode(text[:cut])), len(gpt2.encode(text[cut:]))) == (301_966, 36_059)  # published with nanoGPT
    assert (gpt2.vocab_size, gpt2.eos_id, gpt2.pad_id, gpt2.special_ids) == (50257, 50256, None, [50256])
    assert gpt2.starts_word[gpt2.encode("unbelievable, really")].tolist() == [*4 * [False], True, True]
    for name, roles in {"t5-base": (None, 1, 2, 0), "test_model": (1, 2, 0, None)}.items():
        path = data / f"sentencepiece/{name}.model"
        tokenizer = Tokenizer.load(path)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id) == roles
        sample = texts(200)
        reference = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(sample)
        assert [ids.tolist() for ids in tokenizer.encode_batch(sample)] == reference
    assert t5_beside_a_model(data / "sentencepiece/t5-base.model", tmp_path) < 0.05
    with pytest.raises(UserError, match=r"several SentencePiece models: t5-base\.model, test_model\.model"):
        Tokenizer.load(data / "sentencepiece")


def test_the_fingerprint_leaves_out_truncation_and_padding(shared: Path, tmp_path: Path) -> None:
    description = json.loads((shared / "data/gpt2/tokenizer.json").read_text())
    description["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(description, indent=1))
    gpt2, truncating = Tokenizer.load(shared / "data/gpt2"), Tokenizer.load(tmp_path / "tokenizer.json")
    assert (
        truncating.fingerprint == gpt2.fingerprint and len(truncating.encode("one two three four five six seven")) == 7
    )
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "!"}')
    assert Tokenizer.load(tmp_path).fingerprint != gpt2.fingerprint and Tokenizer.load(tmp_path).eos_id == 0


def test_special_tokens_that_only_the_config_names_get_the_ids_of_transformers(shared: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "tokenizer.json").write_bytes((shared / "data/gpt2/tokenizer.json").read_bytes())
    names = {
        "eos_token": "<|endoftext|>",
        "pad_token": "<pad>",
        "bos_token": {"__type": "AddedToken", "content": "<s>"},
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "additional_special_tokens": ["<x>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (ours.bos_id, ours.pad_id, ours.eos_id) == (theirs.bos_token_id, theirs.pad_token_id, theirs.eos_token_id)
    assert ours.vocab_size == len(theirs) == 50260


@pytest.mark.parametrize("kind", ["byte_level_bpe", "sp unigram"])
def test_chats_score_what_the_assistant_says(trained: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = trained[kind]
    turns = [("user", "Hi?"), ("assistant", "Hello there."), ("user", "Bye"), ("assistant", "Bye!")]
    messages = [{"role": role, "content": content} for role, content in turns]
    ids, spans = tokenizer.encode_chat(messages)
    whole = "user: Hi?\nassistant: Hello there.<eos>\nuser: Bye\nassistant: Bye!<eos>"
    assert tokenizer.decode(ids, skip_special=False) == whole
    assert [tokenizer.decode(ids[a:b], skip_special=False) for a, b in spans] == [" Hello there.<eos>", " Bye!<eos>"]
    assert ids[-1] == tokenizer.eos_id
    marked = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ '[' + m.content + ']' }}{% endif %}{% endfor %}"
    )
    other = Tokenizer({**tokenizer.files, "chat_template.jinja": marked.encode()})
    ids, spans = other.encode_chat(messages)
    assert [other.decode(ids[a:b]).strip("[]") for a, b in spans] == ["Hello there.", "Bye!"]
    forgetful = "{% for m in messages %}{{ m.content if loop.last else '' }}{% endfor %}"
    with pytest.raises(UserError, match="generation"):
        Tokenizer({**tokenizer.files, "chat_template.jinja": forgetful.encode()}).encode_chat(messages)


def test_training_text_keeps_to_its_budget(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("".join(f"line {i} {'x' * 93}\n\n" for i in range(2000)))
    text = TrainingText(config(tmp_path / "x.txt", training_bytes=20_000))
    lines = list(text)
    assert text.n_bytes == sum(map(len, lines)) and 15_000 < text.n_bytes <= 20_000
    # Taken from all of it, not from its beginning.
    assert max(int(line.split()[1]) for line in lines) > 1800
    long = "word " * 3000 + "y" * 10_000
    assert "".join(pieces(long)) == long and max(map(len, pieces(long))) <= 4000
    assert all(piece.startswith((" ", "y", "word")) for piece in pieces(long))
    assert list(pieces("a\n\nb\tc", by_line=True)) == ["a", "b", "c"]


def test_a_pretrained_pipeline_is_trained_anew(shared: Path, book: Path) -> None:
    given = config(book, retrain=str(shared / "data/gpt2"), special_tokens={"extra": ["<x>"]})
    tokenizer = Tokenizer(train_hf_tokenizer.retrain(given, TrainingText(given)))
    assert tokenizer.vocab_size == 1000 and tokenizer.token(tokenizer.eos_id or 0) == "<|endoftext|>"
    assert {tokenizer.token(i) for i in tokenizer.special_ids} == {"<|endoftext|>", "<x>"}
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts(200))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "char"}, "train_sp_tokenizer"),
        ({"kind": "byte_level_bpe", "pre_tokenisation": "bert"}, "needs gpt2 or gpt4"),
        ({"kind": "unigram", "special_tokens": {"unk": None}}, "special_tokens.unk"),
        ({"kind": "byte_level_bpe", "vocab_size": 100}, "too small"),
    ],
)
def test_settings_that_do_not_go_together(book: Path, settings: dict[str, Any], said: str) -> None:
    given = config(book, **settings)
    with pytest.raises(UserError, match=said):
        train_hf_tokenizer.check(given)
        train_hf_tokenizer.train(given, TrainingText(given))
    if settings["kind"] != "char":
        with pytest.raises(UserError):
            train_sp_tokenizer.check(given)
            train_sp_tokenizer.train(given, TrainingText(given, by_line=True))


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    for path, said in {
        tmp_path: "cannot be read",
        tmp_path / "none": "no tokenizer at",
        Path(__file__): "is no tokenizer",
        Path(__file__).parent: "neither a tokenizer.json nor a .model",
    }.items():
        with pytest.raises(UserError, match=said):
            Tokenizer.load(path)
    with pytest.raises(UserError, match="make one with python -m tokenizer.train_hf_tokenizer"):
        Tokenizer.configured(Config(paths={"data": str(tmp_path / "data")}))


def test_a_folder_that_cannot_be_written_is_told_before_the_training() -> None:
    from tokenizer import trained

    for place, said in (("/proc/nowhere", "cannot make the folder /proc/nowhere"), ("/proc", "cannot .*/proc/sample")):
        with pytest.raises(UserError, match=said):
            trained.finished(Config(paths={"data": place}), "huggingface", restart=False)
    with pytest.raises(UserError, match="cannot make the folder"), atomic_write("/proc/nowhere/at/all"):
        pass


@pytest.mark.parametrize("script", ["hf", "sp"])
def test_the_doors(book: Path, tmp_path: Path, run_script: RunScript, script: str) -> None:
    path = tmp_path / "test.yaml"
    kind = "byte_level_bpe" if script == "hf" else "bpe"
    settings = config(book, kind=kind).model_dump(include={"dataset": {"source", "train_path", "text_unit"}})
    tokenizer = {"kind": kind, "vocab_size": 600}
    path.write_text(yaml.safe_dump({**settings, "tokenizer": tokenizer, "paths": {"data": str(tmp_path)}}))
    door = ["-m", f"tokenizer.train_{script}_tokenizer", path]
    first = run_script(door)
    assert first.returncode == 0, first.stderr
    for expected in ("bytes per token", "come back as they were", "some tokens", "tokenize_data.py"):
        assert expected in first.stdout
    (directory,) = tmp_path.glob("*/tokenizer")
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    second = run_script(door)
    assert second.returncode == 0 and "nothing to do" in second.stdout
    changed = run_script([*door, "tokenizer.vocab_size=700"])
    assert changed.returncode == 2 and "vocab_size: 600 there, 700 in the config" in changed.stderr
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n{"txt": "bad"}\n')
    stopped = run_script([*door, f"dataset.train_path={bad}"])
    assert stopped.returncode == 2 and stopped.stderr.startswith(f"error: {bad}:2: no such field")
    assert run_script([*door, "--restart"]).returncode == 0
    assert {file.name: file.read_bytes() for file in directory.iterdir() if file.name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
